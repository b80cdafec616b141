"""Pushing an export: with a hub that is made up."""

import pytest
from command_line import run
from shipped import classifier

from clm_kernels.finetune.shipping.push import push


@pytest.fixture
def hub(monkeypatch):
    """What the hub was asked for."""
    calls = []

    class Hub:
        def create_repo(self, repository, **options):
            calls.append(("create", repository, options))
            return f"https://hub/{repository}"

        def upload_folder(self, **options):
            calls.append(("upload", options["repo_id"], options["folder_path"]))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return calls


@pytest.mark.parametrize("public", [False, True])
def test_a_repository_is_private_unless_asked(hub, tmp_path, public):
    assert push(tmp_path, "me/intents", public) == "https://hub/me/intents"
    assert hub == [("create", "me/intents", {"private": not public, "exist_ok": True}), ("upload", "me/intents", str(tmp_path))]


def test_the_command_line(hub, tmp_path):
    classifier("bert", "cls").export(tmp_path / "model")
    done = run("export", "--model", tmp_path / "model", "--output", tmp_path / "o", "--push", "me/intents")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "pushed: https://hub/me/intents (private, unless it was there)"
    assert (tmp_path / "o" / "README.md").is_file() and hub[-1] == ("upload", "me/intents", str(tmp_path / "o"))


def test_a_wrong_name_is_refused_before_anything_is_written(hub, tmp_path):
    classifier("bert", "cls").export(tmp_path / "model")
    done = run("export", "--model", tmp_path / "model", "--output", tmp_path / "o", "--push", "intents")
    assert done.exit_code == 2 and "push must be a repository as OWNER/NAME, got 'intents'" in done.stderr
    assert not (tmp_path / "o").exists() and not hub


def test_what_the_hub_says_is_one_line_and_the_folder_stays(tmp_path, monkeypatch):
    class Hub:
        def create_repo(self, repository, **options):
            raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(
        RuntimeError,
        match=r"^export: me/intents took nothing \(401 Unauthorized\); .* is whole, to be pushed again by `hf upload`$",
    ):
        push(tmp_path, "me/intents")
