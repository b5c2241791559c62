"""Instances: which file is the configuration of which, and what one has in place of the defaults."""

from pathlib import Path

import pytest

from axomsync import config
from axomsync.core.errors import BadConfig, KeyRefused

ETC = Path("/etc/axomsync")


@pytest.mark.parametrize("name", ["eu", "eu-2", "0", "a_b", "x" * 32])
def test_names(name: str) -> None:
    config.check_instance(name)
    assert config.instance_of(ETC / f"{name}.toml", {}) == name


@pytest.mark.parametrize(
    "name", ["", "config", "drop", "models", "spool", "-a", "_a", "A", "a.b", "a/b", "..", "a b", "a@b", "%i", "ü", "x" * 33]
)
def test_names_that_can_not_be(name: str) -> None:
    with pytest.raises(BadConfig, match="can't be the name of an instance"):
        config.instance_config(name, {}, root=True)
    assert config.instance_of(ETC / f"{name}.toml", {}) is None


def test_the_file_says_whose_it_is_however_it_is_named(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/home/bob"}
    own = tmp_path / "axomsync"
    assert config.instance_of(own / "eu.toml", environ) == "eu"
    assert config.instance_of(own / "x" / ".." / "eu.toml", environ) == "eu"
    for other in (own / "config.toml", own / "eu.key", tmp_path / "eu.toml", Path("the environment")):
        assert config.instance_of(other, environ) is None
    assert config.instance_config("eu", environ, root=True) == ETC / "eu.toml"
    assert config.instance_config("eu", environ, root=False) == own / "eu.toml"
    own.mkdir()
    (own / "eu.toml").touch()
    assert config.instance_config("eu", environ, root=True) == own / "eu.toml"


def test_what_is_not_set_is_apart_from_all_others() -> None:
    plain = config.parse("", ETC / "config.toml", {}).settings
    loaded = [config.parse(text, ETC / f"{name}.toml", {}) for name, text in (("eu", ""), ("us", "[mirror]\nkeep = 2"))]
    eu, us = (one.settings for one in loaded)
    for one, name in ((eu, "eu"), (us, "us")):
        assert (one.instance, one.web.listen) == (name, "")
        assert str(one.state.folder) == f"/var/lib/axomsync/{name}"
        assert (str(one.drop.folder), str(one.mirror.folder)) == (f"/srv/axom/{name}/drop", f"/srv/axom/{name}/models")
    assert plain.instance is None
    assert us.mirror.keep == 2
    assert loaded[0].origins["state.folder"] == "default of the instance eu"
    changed = config.parse("", ETC / "eu.toml", {"AXOMSYNC_DROP__FOLDER": "/d"})
    assert (str(changed.settings.drop.folder), changed.origins["drop.folder"]) == ("/d", "$AXOMSYNC_DROP__FOLDER")
    with pytest.raises(BadConfig, match="is a section"):
        config.parse("state = 1", ETC / "eu.toml", {})


def test_a_users_instances_are_below_home() -> None:
    environ = {"HOME": "/home/bob"}
    path = Path("/home/bob/.config/axomsync/eu.toml")
    settings = config.parse("", path, environ).settings
    assert str(settings.state.folder) == "/home/bob/.local/state/axomsync/eu"
    assert str(settings.mirror.folder) == "/home/bob/axom/eu/models"
    assert config.defaults_for_user(str(path), environ, root=False)[1]["drop.folder"] == "/home/bob/axom/eu/drop"


def test_each_new_page_gets_a_port_that_nobody_names(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/"}
    own = tmp_path / "axomsync"
    own.mkdir()
    assert config.free_listen(own / "a.toml", environ) == "127.0.0.1:9465"
    (own / "a.toml").write_text('[web]\nlisten = "127.0.0.1:9465"\n')
    (own / "b.toml").write_text('[web]\nlisten = "[::1]:9466"\n')
    (own / "c.toml").write_text("not a configuration")
    (own / "config.toml").write_text("")
    assert config.free_listen(own / "d.toml", environ) == "127.0.0.1:9467"
    found = config.neighbours(own / "b.toml", environ)
    assert [path.name for path in found] == ["config.toml", "a.toml", "b.toml", "c.toml"]
    assert isinstance(found[own / "c.toml"], BadConfig)


def test_the_key_that_is_lent_is_that_of_the_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.exists", lambda path: str(path) == "/etc/axomsync/eu.key")
    settings = config.parse("", ETC / "eu.toml", {}).settings
    with pytest.raises(KeyRefused, match=r"AXOM_KEY=\$\(cat /etc/axomsync/eu.key\) axomsync --instance eu "):
        config.load_key(settings, {})


def test_without_a_main_configuration_the_instances_are_named(tmp_path: Path) -> None:
    (tmp_path / "axomsync").mkdir()
    (tmp_path / "axomsync" / "eu.toml").touch()
    with pytest.raises(BadConfig, match="--instance eu"):
        config.find(None, {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/"})
