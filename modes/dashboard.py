"""`--mode=dashboard`: shows a finished or running run in visdom."""
import contextlib
import os
import sys

from engine import runs
from engine.arguments import Mode, need
from engine.dashboard import Follower
from engine.visdom_server import SERVER, Trouble, VisdomServer
from errors import InputError


def run(options, _device):
    """Show the run in --ckpt_dir once, or with --follow until Ctrl-C; returns the exit code."""
    need(options, "ckpt_dir")
    need(options, "visdom_env")
    if not any(os.path.exists(os.path.join(options.ckpt_dir, name)) for name in (runs.METRICS, runs.OPTIONS)):
        raise InputError(f"{options.ckpt_dir} has no {runs.METRICS}; is it the --ckpt_dir of a run?")
    follower = Follower(options.ckpt_dir, options.sample_dir, options.visdom_env,
                        VisdomServer.of(options))
    if options.follow:
        with contextlib.suppress(KeyboardInterrupt):
            follower.follow()
        return 0
    follower.read()
    try:
        follower.push()
    except Trouble as trouble:
        start = f"; start one with python -m visdom.server -bind_local -port {options.visdom_port}" \
            if "does not answer" in str(trouble) and follower.server.is_loopback() else ""
        print(f"error: the visdom server {follower.server.url} {trouble}{start}", file=sys.stderr)
        return 1
    print(f"{options.ckpt_dir} -> {follower.server.url}/env/{options.visdom_env}")
    return 0


MODE = Mode(run, "a run, finished or running, in visdom", taken_by_all=SERVER, options={
    "follow": dict(action="store_true", help="keep updating while the run is training, until Ctrl-C")})
