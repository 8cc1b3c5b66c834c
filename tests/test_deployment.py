"""The files by which a server is run say what the program says: names, ports, paths and variables."""

import configparser
import os
import re
from pathlib import Path

import pytest
import yaml

from saestore_cli.app import build
from saestore_schemas.server import ServerSettings
from saestore_schemas.settings import MachineSettings


ROOT = Path(__file__).resolve().parents[1]
KNOWN = {
    f"{model.model_config['env_prefix']}{name}".upper()
    for model in (MachineSettings, ServerSettings)
    for name in model.model_fields
}


def read(name):
    return (ROOT / name).read_text()


def compose(**given):
    """Return docker-compose.yml with its variables filled in as docker compose does it."""

    def value(match):
        name, _, default = match[1].partition(":")
        if given.get(name):
            return given[name]
        if default.startswith("?"):
            pytest.fail(f"{name} is required: {default[1:]}")
        return default.removeprefix("-")

    def filled(part):
        if isinstance(part, dict):
            return {key: filled(each) for key, each in part.items()}
        if isinstance(part, list):
            return [filled(each) for each in part]
        return re.sub(r"\$\{([^}]+)\}", value, part) if isinstance(part, str) else part

    return filled(yaml.safe_load(read("docker-compose.yml")))


def example():
    """Return what .env.example sets."""
    lines = [line for line in read(".env.example").splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines if line)


FILLED = {**example(), "SAESTORE_SERVER_TOKEN": "t" * 32, "MONGO_PASSWORD": "p" * 32}


def test_the_example_has_every_variable_of_the_compose_file_and_no_other():
    used = re.findall(r"\$\{(\w+)", read("docker-compose.yml"))
    assert set(example()) == set(used)
    needed = re.findall(r"\$\{(\w+):\?", read("docker-compose.yml"))
    assert set(needed) == {"LAKE", "SAESTORE_SERVER_TOKEN", "MONGO_PASSWORD"}
    assert ".env" in read(".gitignore").splitlines()
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", read("docker-compose.yml")))
    assert {name: value for name, value in example().items() if name in defaults} == defaults


@pytest.mark.parametrize("name", ["Dockerfile", "docker-compose.yml", "deploy/saestore.service"])
def test_every_variable_is_one_that_the_program_reads(name):
    found = set(re.findall(r"\bSAESTORE_[A-Z_]*[A-Z]\b", read(name)))
    assert found
    assert found <= KNOWN


def test_the_services_fit_together(monkeypatch):
    services = compose(**FILLED)["services"]
    server, index, mongo = (services[name] for name in ("server", "index", "mongo"))
    for name in list(os.environ):
        if name.startswith("SAESTORE_"):
            monkeypatch.delenv(name)
    for name, value in server["environment"].items():
        monkeypatch.setenv(name, str(value))
    settings = ServerSettings()
    assert (settings.annotate, settings.hosts, settings.loopback) == (False, (), True)
    assert settings.token.get_secret_value() == "t" * 32
    for service in (server, index):
        host = re.search(r"@(\w+):(\d+)/", service["environment"]["SAESTORE_MONGO_URI"])
        assert (host[1], host[2]) == ("mongo", "27017")
        assert service["volumes"] == ["./demo-lake:/lake:ro"]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["depends_on"] == {"mongo": {"condition": "service_healthy"}}
    user = mongo["environment"]["MONGO_INITDB_ROOT_USERNAME"]
    assert f"//{user}:{'p' * 32}@" in server["environment"]["SAESTORE_MONGO_URI"]
    assert "ports" not in mongo
    published, own = server["ports"][0].rsplit(":", 1)
    assert published.startswith("127.0.0.1:")
    assert int(own) == ServerSettings.model_fields["port"].default


def test_the_image_starts_what_there_is():
    lines = [line for line in re.sub(r"\\\n", " ", read("Dockerfile")).splitlines() if line]
    copied = [w for line in lines if line.startswith("COPY") for w in line.split()[1:-1]]
    kept = {
        line.removeprefix("!") for line in read(".dockerignore").splitlines() if line[:1] == "!"
    }
    assert all((ROOT / each).exists() for each in copied)
    assert set(copied) == kept
    assert 'ENTRYPOINT ["saestore"]' in lines
    assert 'CMD ["serve"]' in lines
    commands = build().commands
    assert "serve" in commands
    index = compose(**FILLED)["services"]["index"]
    assert index["entrypoint"] == ["saestore", "index"]
    assert index["command"][0] in commands["index"].commands
    environment = dict(re.findall(r"(SAESTORE_\w+)=(\S+)", read("Dockerfile")))
    assert environment["SAESTORE_LAKE"] == "/lake"
    assert int(environment["SAESTORE_SERVER_PORT"]) == ServerSettings.model_fields["port"].default
    extras = re.search(r"EXTRAS=(\S+)", read("Dockerfile"))[1].split(",")
    assert all(
        re.search(rf"^{extra} = \[", read("pyproject.toml"), re.MULTILINE) for extra in extras
    )


def test_the_unit_starts_a_command_with_options_that_it_has():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(read("deploy/saestore.service"))
    words = unit["Service"]["ExecStart"].split()
    assert words[0].endswith("/saestore")
    command = build().commands[words[1]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    port = ServerSettings.model_fields["port"].default
    for name in ("deploy/nginx.conf", "deploy/Caddyfile"):
        assert f"127.0.0.1:{port}" in read(name)
