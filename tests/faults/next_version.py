"""dcd of a version to come: its log has one revision more, and one event a new version.

    python next_version.py DIRECTORY serve ...      as `dcd serve ...`

`DIRECTORY` is where it may put its migration. What it does to the old log is what a real one would do: a
table is added, and the first event of a build has a parameter more than in version 1.
"""

import importlib.metadata
import sys
from pathlib import Path

MIGRATION = """
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.execute("CREATE TABLE notes ( build TEXT NOT NULL, PRIMARY KEY (build) ) STRICT")
"""


def become_next(directory: Path) -> None:
    """Patch what is imported later."""
    known = importlib.metadata.version
    importlib.metadata.version = lambda name: "99.0" if name == "dcd" else known(name)

    from statemachine import events, upcasters

    events.BuildSubmitted.VERSION = 2
    upcasters.UPCASTERS["BuildSubmitted", 1] = lambda data: {
        **data,
        "parameters": {**data.get("parameters", {}), "upcast": "yes"},
    }

    import alembic.config
    import sqlalchemy as sa

    from store.eventlog.sqlite import database, migrations, schema

    database.REVISIONS = schema.REVISIONS = (*schema.REVISIONS, "0002")
    build = sa.Column("build", sa.Text, primary_key=True)
    sa.Table("notes", schema.metadata, build, sqlite_strict=True)
    (directory / "v0002.py").write_text(MIGRATION)
    places = [str(Path(migrations.__file__).parent / "versions"), str(directory)]

    class Config(alembic.config.Config):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.set_main_option("path_separator", "newline")
            self.set_main_option("version_locations", "\n".join(places))

    alembic.config.Config = Config


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    become_next(Path(sys.argv[1]))
    from dcd.main import main

    sys.exit(main(sys.argv[2:]))
