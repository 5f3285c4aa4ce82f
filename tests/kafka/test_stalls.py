from autoemb_pipeline.kafka.stalls import Throttle


def test_each_key_is_said_at_once_and_then_once_an_interval() -> None:
    throttle = Throttle(10)
    said = [(second, key) for second in range(0, 25, 3) for key in ("a", "b") if (key == "a" or second > 5) and throttle.due(key, second)]
    assert said == [(0, "a"), (6, "b"), (12, "a"), (18, "b"), (24, "a")]
