"""Dagster's storage in the Postgres of a service, wherever that runs at the moment. Dagster's by nature.

    storage:
      custom:
        module: hfassets.service.storage
        class: ServiceStorage
        config: {folder: /path/to/DAGSTER_HOME/service}

Jobs on other nodes find it by the same file; no password stands in any config or environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from dagster import Field, StringSource
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage

from hfassets.service.postgres import OwnPostgres


class ServiceStorage(DagsterPostgresStorage):
    """`config: {folder: …}`: the service's folder."""

    @classmethod
    def config_type(cls) -> Any:
        """The schema of `config`."""
        return {"folder": Field(StringSource, description="The folder `service` below DAGSTER_HOME.")}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Any:
        """Made by Dagster. Raises HfassetsError when the database was never started."""
        url = OwnPostgres(Path(config_value["folder"])).address().url
        data = ConfigurableClassData(
            "dagster_postgres", "DagsterPostgresStorage", yaml.safe_dump({"postgres_url": url})
        )
        return DagsterPostgresStorage(postgres_url=url, inst_data=data)
