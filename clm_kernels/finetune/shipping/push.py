"""An exported folder on the hub, through huggingface_hub: in a repository that is private unless it is asked to be public."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import require
from ...extras import needs

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def check_repository(repository: str) -> None:
    """Raises ValueError for what cannot be the name of a repository, before anything is exported."""
    named = REPOSITORY.fullmatch(repository) is not None
    require(named, "export", "push", "a repository as OWNER/NAME", repr(repository))


def push(folder: Path, repository: str, public: bool = False) -> str:
    """Makes the repository if there is none, and uploads every file of the folder in one commit; returns its address.

    The access token is the one that `hf auth login` or ``HF_TOKEN`` gives huggingface_hub. A repository that is there keeps its
    visibility.

    Raises:
        RuntimeError: with what the hub said, where it refuses.
    """
    hub = needs("huggingface_hub", "export")
    check_repository(repository)
    api = hub.HfApi()
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Exported by clm-kernels")
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"export: {repository} took nothing ({said}); {str(folder)!r} is whole, to be pushed again by `hf upload`"
        ) from error
    return str(address)
