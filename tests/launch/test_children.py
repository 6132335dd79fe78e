"""Processes that a process of ours starts: heard while it lives, silent when it was killed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# A child hands over a resource as torch hands over a batch; its parent reaches out for it and breaks off, twice.
PARENT = """
import os, signal, socket, sys, time
from multiprocessing import resource_sharer
from diptych.launch.children import end_with_parent, fork_server


def child(pipe):
    end_with_parent()
    pipe.send(resource_sharer._resource_sharer.register(None, None)[0])
    signal.pause()


if __name__ == "__main__":
    here, there = (context := fork_server("diptych.launch.children")).Pipe()
    context.Process(target=child, args=(there,)).start()
    address = here.recv()
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as reaching:
            reaching.connect(address)
        sys.stdin.readline()
    time.sleep(0.5)  # a killed process's sockets close before it is gone
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_says_what_failed_unless_its_parent_was_killed(tmp_path: Path) -> None:
    (script := tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert parent.stdin is not None and parent.stderr is not None
    assert "Traceback" in parent.stderr.readline()
    assert any(re.match("EOFError|BrokenPipeError|ConnectionResetError", line) for line in parent.stderr)
    parent.stdin.write("again\nand be killed\n")
    assert parent.stderr.read() == ""  # nor has the child outlived it: it holds stderr
    assert parent.wait() == -9
