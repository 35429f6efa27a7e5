"""Settings of those who need to know which sites there are: see `headrace_contracts.sites`."""

from __future__ import annotations

from typing import Annotated

from headrace_contracts.sites import site_names
from pydantic import AfterValidator

from headrace_runtime.settings import CommaList, Settings, setting


class SitesSettings(Settings):
    """For provisioning, which makes the topics of sites, and the router, which writes to them."""

    sites: Annotated[CommaList, AfterValidator(site_names)] = setting(
        (),
        unit="name, ...",
        reason="Sites of local workers: groups that reach the same nodes. Each has topics of its own, and attempts "
        "go to a site whose nodes have the model. Workers without a site need no entry.",
    )
