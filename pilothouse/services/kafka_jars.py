"""The jars of Apache Kafka, fetched once from the Maven repository, each held to its committed checksum.

`kafka_jars.sha256` is the resolved dependency tree of Kafka, so nothing is resolved here and no version can move.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pilothouse.services.child import FetchError, NotInstalledError

logger = logging.getLogger(__name__)

VERSION = "4.3.1"
PINS = Path(__file__).with_name("kafka_jars.sha256")
CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned artefact: a line of the pins, in their order."""

    sha256: str
    group: str
    artifact: str
    version: str

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def pinned() -> list[Jar]:
    """Every jar that the broker needs, as committed."""
    return [Jar(*line.replace(":", " ").split()) for line in PINS.read_text().splitlines()]


def given(directory: Path, jars: Sequence[Jar]) -> list[Path]:
    """The jars in a directory that somebody filled by other means. Raises FetchError."""
    for jar in jars:
        path = directory / jar.filename
        if not path.exists():
            raise FetchError(
                f"kafka: PILOTHOUSE_KAFKA_JARS={directory} has no {jar.filename} ({jar.coordinate}); add it"
            )
        if (found := _sha256(path)) != jar.sha256:
            raise FetchError(
                f"kafka: {path} has sha256 {found}, pinned is {jar.sha256}; replace it by {jar.coordinate}"
            )
    return [directory / jar.filename for jar in jars]


def fetched(cache_dir: Path, jars: Sequence[Jar], repositories: Mapping[str, str] | None = None) -> list[Path]:
    """The jars in the cache, the missing ones fetched first. Blocks. Raises FetchError.

    `repositories` (name to URL) takes the place of those of jgo: its central repository and its configuration file.
    """
    directory = cache_dir / f"kafka-{VERSION}"
    missing = [jar for jar in jars if not _is_good(directory / jar.filename, jar)]
    if missing:
        logger.info("fetching Apache Kafka, once", extra={"jars": len(missing), "directory": str(directory)})
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            _fetch(missing, directory, Path(scratch), _repositories() if repositories is None else repositories)
    return [directory / jar.filename for jar in jars]


def _fetch(jars: Sequence[Jar], directory: Path, scratch: Path, repositories: Mapping[str, str]) -> None:
    def fetch(jar: Jar) -> None:
        path = _download(jar, scratch, repositories)
        if (found := _sha256(path)) != jar.sha256:
            raise FetchError(
                f"kafka: {jar.coordinate} came with sha256 {found}, pinned is {jar.sha256}. {_mend(directory)}"
            )
        # Only whole, checked files get a name in the cache, so two programs may fetch at once.
        path.replace(directory / jar.filename)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for _ in threads.map(fetch, jars):
            pass


def _download(jar: Jar, scratch: Path, repositories: Mapping[str, str]) -> Path:
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=scratch, remote_repos=dict(repositories))
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    try:
        path: Path | None = context.resolver.download(artifact)
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo raises RuntimeError for a 404
        raise FetchError(f"kafka: {jar.coordinate} could not be fetched: {error}. {_mend(scratch.parent)}") from error
    if path is None:
        raise FetchError(f"kafka: {jar.coordinate} could not be fetched. {_mend(scratch.parent)}")
    return path


def _repositories() -> dict[str, str]:
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
    except ImportError as error:
        raise NotInstalledError(
            "kafka: the wheel `jgo` is not installed; install `pilothouse[embedded]`, "
            "or set PILOTHOUSE_KAFKA to a broker of yours"
        ) from error
    # A company's mirror stands in jgo's own configuration file.
    return {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}


def _mend(directory: Path) -> str:
    return (
        f"Without a network, put the {len(pinned())} jars listed in {PINS.name} into a directory and set "
        f"PILOTHOUSE_KAFKA_JARS to it (a filled {directory} of another machine will do), "
        "or set PILOTHOUSE_KAFKA to a broker of yours"
    )


def _is_good(path: Path, jar: Jar) -> bool:
    return path.exists() and _sha256(path) == jar.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
