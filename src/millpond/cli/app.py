"""`millpond app`: applications, and the packages of them that nodes can be given."""

import json
from pathlib import Path

import click

from millpond.cli.common import CliError, service_options
from millpond.cli.management import ManagementClient


@click.group()
def app() -> None:
    """Add, list and delete application packages: zip files that nodes unpack for tasks.

    Pools and tasks name them in applicationPackageReferences.
    """


@app.command("list")
@service_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_(config_path: Path | None, data_dir: str | None, as_json: bool) -> None:
    """List applications with their versions; the default has a star."""
    client = ManagementClient(config_path, data_dir)
    found = []
    for application in client.get_all("applications"):
        packages = client.get_all("applications", application["name"], "versions")
        properties = application["properties"]
        found.append(
            {
                "id": application["name"],
                **properties,
                "packages": [{"version": one["name"], **one["properties"]} for one in packages],
            }
        )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for entry in found:
        if not entry["packages"]:
            click.echo(f"{entry['id']:<24} (no packages)")
        for package in entry["packages"]:
            star = "*" if package["version"] == entry.get("defaultVersion") else " "
            click.echo(f"{entry['id']:<24} {star}{package['version']:<20} {package['state'].lower()}")


@app.command()
@service_options
@click.argument("application")
@click.argument("version")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--default", "is_default", is_flag=True, help="Make it the version meant by who names none.")
def add(
    config_path: Path | None, data_dir: str | None, application: str, version: str, file: Path, is_default: bool
) -> None:
    """Upload the zip FILE as VERSION of APPLICATION, which is made if need be, and activate it."""
    client = ManagementClient(config_path, data_dir)
    client.call("PUT", "applications", application, body={})
    package = client.call("PUT", "applications", application, "versions", version, body={})
    assert package is not None
    try:
        with file.open("rb") as content:
            client.upload(package["properties"]["storageUrl"], content, file.stat().st_size)
    except OSError as error:
        raise CliError(f"{file} cannot be read ({error.strerror})") from error
    client.call("POST", "applications", application, "versions", version, "activate", body={"format": "zip"})
    if is_default:
        client.call("PATCH", "applications", application, body={"properties": {"defaultVersion": version}})
    click.echo(f"{application} {version}")


@app.command()
@service_options
@click.argument("application")
@click.argument("version", required=False)
def delete(config_path: Path | None, data_dir: str | None, application: str, version: str | None) -> None:
    """Delete VERSION of APPLICATION; without VERSION, the application, which must have none left."""
    client = ManagementClient(config_path, data_dir)
    # The operation itself is content with what is not there.
    client.call("GET", "applications", application, *(() if version is None else ("versions", version)))
    client.call("DELETE", "applications", application, *(() if version is None else ("versions", version)))
