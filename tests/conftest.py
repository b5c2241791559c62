"""Fixtures for every test; what they do is in `tests/rig`."""

import signal

pytest_plugins = ["tests.rig.fixtures"]

# Started by `nohup`, by `&` in a script and by some CI, the suite has these ignored, and would hand that on to every process
# that it starts; there a signal that is sent would never come. A handler is reset by exec, and goes on ignoring here.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
