"""Remotes: stored strictly, shown without secrets, trusted only when a person says so."""

from pathlib import Path

import pytest

from hacktree.client.remote import (
    Remote,
    RemoteMissingError,
    add_remote,
    choose_remote,
    list_remotes,
    load_remote,
    remove_remote,
)
from hacktree.common.cli.main import main
from hacktree.common.errors import CorruptError, UserError
from hacktree.common.repository.repository import Repository
from support.pulling import make_repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path / "repo")


def test_a_remote_is_read_back_as_it_was_added(repository: Repository) -> None:
    remote = Remote("farm", "https://h/x", "unsigned", tls_ca="/a", tls_cert="/b", proxy="http://p")
    add_remote(repository, remote)
    assert load_remote(repository, "farm") == remote
    assert list_remotes(repository) == [remote]
    add_remote(repository, remote)
    remove_remote(repository, "farm")
    assert list_remotes(repository) == []


def test_a_name_is_not_silently_given_another_url(repository: Repository) -> None:
    add_remote(repository, Remote("farm", "https://h/x", "unsigned"))
    with pytest.raises(UserError, match="already"):
        add_remote(repository, Remote("farm", "https://h/y", "unsigned"))


@pytest.mark.parametrize(
    "url",
    ["ftp://h/x", "h/x", "http://", "file://host/x", "file:", "http://h/x?a", "http://h/#f", ""],
)
def test_a_url_that_is_no_repository_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"URL|names a host"):
        Remote("farm", url, "unsigned")


@pytest.mark.parametrize("name", ["a/b", "..", "", "A", "remotes"])
def test_a_remote_name_is_one_component(name: str) -> None:
    with pytest.raises(UserError):
        Remote(name, "http://h/x", "unsigned")


@pytest.mark.parametrize("text", ["x = [", 'url = "http://h/x"\ntrust = "none"', "colour = 1"])
def test_a_damaged_definition_is_refused_by_its_path(repository: Repository, text: str) -> None:
    add_remote(repository, Remote("farm", "http://h/x", "unsigned"))
    path = repository.state / "remotes" / "farm.toml"
    path.write_text(text)
    with pytest.raises(CorruptError, match=r"farm\.toml"):
        load_remote(repository, "farm")


def test_the_only_remote_needs_no_name_and_several_do(repository: Repository) -> None:
    with pytest.raises(RemoteMissingError):
        choose_remote(repository, None)
    add_remote(repository, Remote("a", "http://h/x", "unsigned"))
    assert choose_remote(repository, None).name == "a"
    add_remote(repository, Remote("b", "http://h/x", "unsigned"))
    with pytest.raises(UserError, match="a, b"):
        choose_remote(repository, None)
    with pytest.raises(RemoteMissingError, match="known: a, b"):
        choose_remote(repository, "c")


def test_adding_without_trust_is_refused_and_unsigned_warns(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--repo", str(repository.path), "remote"]
    with pytest.raises(SystemExit):
        main([*base, "add", "farm", "http://127.0.0.1/x"])
    assert "--unsigned" in capsys.readouterr().err
    assert main([*base, "add", "farm", "http://h/x", "--unsigned"]) == 2
    assert "--root-fingerprint" in capsys.readouterr().err
    assert main([*base, "add", "farm", "http://u:secret@127.0.0.1/x", "--unsigned"]) == 0
    assert "unsigned" in capsys.readouterr().err
    for words in (["list"], ["show", "farm"], ["list", "--json"], ["show", "farm", "--json"]):
        assert main([*base, *words]) == 0
        shown = capsys.readouterr().out
        assert "http://127.0.0.1/x" in shown
        assert "secret" not in shown
    assert main([*base, "remove", "farm"]) == 0
    assert main([*base, "remove", "farm"]) == 2
