"""What ``configs/cluster.yaml`` says: region, bucket, and how long credentials last. Asks nothing of AWS."""

import os
from collections.abc import Mapping

from pydantic import Field

from darkhaloscope.contracts.config import Frozen, find_config, load, parse

_FROM_ENVIRONMENT = {"region": "AWS_REGION", "bucket": "S3_BUCKET"}


class Cluster(Frozen):
    """The place of cloud work.

    region            of the bucket and of everything that is started
    bucket            where its code, logs and results lie
    credential_hours  how long credentials last that do not say so, from their first sight [h]
    """

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    credential_hours: float = Field(gt=0.0)


def load_cluster(path: str = "cluster.yaml", environment: Mapping[str, str] = os.environ) -> Cluster:
    """The configuration, with AWS_REGION and S3_BUCKET in the place of what the file says."""
    written = load(find_config(path), Cluster)
    given = {key: environment[name] for key, name in _FROM_ENVIRONMENT.items() if environment.get(name)}
    names = ", ".join(_FROM_ENVIRONMENT[key] for key in given)
    return parse(
        {**written.model_dump(mode="json"), **given}, Cluster, f"{path} with {names}" if given else path
    )
