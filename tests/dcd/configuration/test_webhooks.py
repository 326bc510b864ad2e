"""Tables [[notify]]: what is accepted, and what is said about the rest."""

import pytest

from dcd.configuration import InvalidConfiguration, from_smf, load, plain

GOOD = 'name = "ci"\nurl = "https://ci.example.org/x"\nsecret = "/etc/dcd/hooks/ci"\n'


def read(tmp_path, text):
    path = tmp_path / "dcd.toml"
    path.write_text(text)
    return load(path, environment={}).configuration.notify


def test_each_table_is_a_webhook(tmp_path):
    more = (
        'events = ["BuildFailed"]\noutcomes = ["failed"]\nbuilds = ["a-*"]\ntimeout_seconds = 3\n'
    )
    first, second = read(
        tmp_path, f"[[notify]]\n{GOOD}{more}\n[[notify]]\n{GOOD.replace('ci', 'chat')}"
    )
    assert (first.name, first.events, first.builds) == ("ci", ("BuildFailed",), ("a-*",))
    assert second.name == "chat"
    assert "BuildCompleted" in plain(second)["events"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (GOOD.replace("https", "ftp"), "must begin with https://"),
        (GOOD.replace("https://", "https://me:pw@"), "no user"),
        (GOOD.replace("name", "nmae"), "did you mean 'name'"),
        (GOOD.replace('"/etc', '"etc'), "absolute path"),
        (GOOD + 'events = ["BuildFialed"]\n', "did you mean 'BuildFailed'"),
        (GOOD + 'outcomes = ["faild"]\n', "did you mean 'failed'"),
        (GOOD + "timeout_seconds = 0\n", "more than 0"),
        (GOOD + f"[[notify]]\n{GOOD}", "two webhooks with the name 'ci'"),
        (GOOD.replace("ci.example.org", "ci.example.org:x"), "port number"),
        (GOOD.replace('"ci"', '"../ci"'), "small letters"),
    ],
)
def test_a_wrong_table_is_an_error_with_its_line(tmp_path, wrong, said):
    with pytest.raises(InvalidConfiguration) as caught:
        read(tmp_path, f"min_free_bytes = 0\n[[notify]]\n{wrong}")
    [problem] = caught.value.problems
    assert problem.startswith(f"{tmp_path}/dcd.toml:2: notify")
    assert said in problem


def test_smf_has_a_value_for_each():
    words = (
        "name=ci",
        "url=https://ci.example.org/",
        "secret=/k",
        "events=BuildFailed,BuildPaused",
    )
    text = "config/notify astring " + "\\ ".join([*words, "timeout_seconds=2"])
    [hook] = from_smf(text, environment={}).configuration.notify
    assert (hook.name, hook.events, hook.timeout_seconds) == (
        "ci",
        ("BuildFailed", "BuildPaused"),
        2.0,
    )
