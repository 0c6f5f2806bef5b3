"""Functions that launcher tests send to other processes; they must be importable by name."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def add(a, b=0):
    return a + b


def fail(message):
    raise KeyError(message)


def interrupt():
    raise KeyboardInterrupt


def say(text):
    print(text)
    print(text + " (stderr)", file=sys.stderr)


def note_pid_and_sleep(path: Path, seconds: float):
    write_whole(path, str(os.getpid()))
    time.sleep(seconds)
    return "slept"


def ignore_sigterm_and_sleep(path: Path, seconds: float):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return note_pid_and_sleep(path, seconds)


def leave_a_grandchild(path: Path):
    child = subprocess.Popen(["sleep", "60"])
    write_whole(path, str(child.pid))


def kill_self(number: int):
    os.kill(os.getpid(), number)
    time.sleep(10)


def exit_hard(code: int):
    os._exit(code)


def leave_python(code: int):
    sys.exit(code)


def return_unpicklable():
    return threading.Lock()


def surroundings():
    return {
        "sys_path": sys.path,
        "pythonpath": os.environ.get("PYTHONPATH"),
        "sid": os.getsid(0),
        "watcher": sys.modules["__main__"].__file__,
    }


def write_whole(path: Path, text: str):
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)
