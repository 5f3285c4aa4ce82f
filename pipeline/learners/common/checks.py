"""What configurations of learners check their fields with."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from autoemb_pipeline.errors import ConfigurationError


def check_choices(config: Any) -> None:
    """Refuses a value that is not among those its field's type, a Literal, names.

    Raises:
        ConfigurationError: names the field and its choices.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise ConfigurationError(
                f"{name} {getattr(config, name)!r} is unknown",
                why=f"known are {', '.join(get_args(kind))}",
                remedy=f"choose one of these as {name}",
            )


def check_numbers(config: Any, names: str, *, above: float | None = None, least: float | None = None) -> None:
    """Refuses a number that is not finite or out of bounds.

    Args:
        config: whose fields.
        names: of the fields, with spaces between.
        above, least: an exclusive or an inclusive bound.

    Raises:
        ConfigurationError: names the field.
    """
    for name in names.split():
        value = getattr(config, name)
        fits = value < float("inf") and (above is None or value > above) and (least is None or value >= least)
        if not fits:
            bound = f"above {above:g}" if above is not None else f"at least {least:g}"
            raise ConfigurationError(f"{name} is {value}", why=f"it must be a finite number, {bound}", remedy=f"change {name}")


def check_widths(config: Any, name: str) -> None:
    """Refuses hidden layers without units.

    Raises:
        ConfigurationError: names the field.
    """
    if any(width < 1 for width in getattr(config, name)):
        raise ConfigurationError(f"{name} {getattr(config, name)} holds a layer without units", remedy="give positive widths")
