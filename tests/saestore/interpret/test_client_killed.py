"""A run that is killed asks nobody twice, but for what was under way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

from saestore.testing.llm import says, slow


PROGRAM = """
import asyncio, sys
from saestore.interpret.client import open_asker
from saestore.interpret.request import Asking, Message
from saestore.lake import Storage
from saestore_schemas.interpret import InterpretSettings

async def run(folder, settings):
    asking = Asking(settings.endpoint, seed=0)
    said = [[Message("system", "say"), Message("user", f"what is {n}?")] for n in range(200)]
    async with open_asker(settings, Storage.at(folder), name="run") as asker:
        await asyncio.gather(*(asker.ask(asking.chat(each, purpose="")) for each in said))
        asker.seal()

asyncio.run(run(sys.argv[1], InterpretSettings.model_validate_json(sys.argv[2])))
"""


def started(bench):
    settings = bench.made()
    given = settings.model_dump(mode="json")
    given["endpoint"]["base_url"] = settings.endpoint.base_url  # both are left out of fingerprints
    given["concurrency"] = settings.concurrency
    arguments = [bench.artefact.url, json.dumps(given)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=os.environ)


def test_after_kill_9_only_what_was_under_way_is_asked_again(bench):
    bench.server.persona = slow(says("yes"), 0.02)
    bench.settings["concurrency"] = 8
    process = started(bench)
    while len(bench.server.requests) < 90 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert started(bench).wait() == 0
    times = Counter(each.body["seed"] for each in bench.server.requests)
    assert len(times) == 200
    assert sum(times.values()) - 200 <= 8
    assert max(times.values()) <= 2

    # what the run counts is what its answers took: all the server counted, but for what nobody heard
    before = len(bench.server.requests)
    answers = bench.ask(*map(bench.question, range(200)), seal=True)
    assert len(bench.server.requests) == before
    assert bench.facts["requests"] == 200
    assert bench.facts["prompt_tokens"] == sum(each.prompt_tokens for each in answers)
    unheard = sum(bench.server.answered.values()) - 200
    assert 0 <= unheard <= 8
    assert bench.facts["completion_tokens"] == bench.server.completion_tokens - unheard
