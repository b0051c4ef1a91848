#!/usr/bin/env python3
"""Compares every graph answer with git's on the same history, then times both.

    compare.py --qmesh target/release/qmesh [--repository PATH | --commits 5000 --seed 1] [--pairs 200] [--time]

Starts a node of its own on a temporary data directory, imports the repository (a generated one unless PATH is given), and for
random pairs of commits compares ancestors, A..B, all merge bases and is-ancestor with `git rev-list`, `git merge-base --all` and
`git merge-base --is-ancestor`. Any difference is printed and the exit code is 1. `--time` then measures, in one run: the full
ancestor walk and 1,000 merge-base queries, each as one process a query, against git with a commit-graph; and the same without the
processes.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time


class Node:
    def __init__(self, qmesh, data):
        self.qmesh = qmesh
        self.process = subprocess.Popen(
            [qmesh, "up", "--data", data, "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0", "-o", "json"],
            stdout=subprocess.PIPE,
        )
        ready = json.loads(self.process.stdout.readline())
        self.environment = dict(os.environ, QMESH_NODE=ready["quic"])

    def run(self, *arguments, codes=(0,)):
        done = subprocess.run([self.qmesh, *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode not in codes:
            sys.exit(f"qmesh {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
        return done

    def lines(self, *arguments):
        return self.run(*arguments).stdout.split()

    def walked_us(self):
        """Microseconds that the node's cores spent in walks since it started."""
        return json.loads(self.run("stats", "-o", "json").stdout)["dag"]["questions_us_total"]

    def stop(self):
        self.process.terminate()
        if self.process.wait() != 0:
            sys.exit(f"the node ended with {self.process.returncode}")


def git(repository, *arguments, codes=(0,)):
    done = subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True)
    if done.returncode not in codes:
        sys.exit(f"git {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")
    return done


def compare(node, repository, pairs, seed):
    commits = git(repository, "rev-list", "--all").stdout.split()
    pick = random.Random(seed)
    wrong = 0

    def check(what, ours, theirs):
        nonlocal wrong
        if sorted(ours) != sorted(theirs):
            wrong += 1
            extra, missing = set(ours) - set(theirs), set(theirs) - set(ours)
            print(f"DIFFERENT {what}: {len(extra)} too many, {len(missing)} missing", *list(extra | missing)[:3])

    for number in range(pairs):
        left, right = pick.choice(commits), pick.choice(commits)
        bases = git(repository, "merge-base", "--all", left, right, codes=(0, 1)).stdout.split()
        check(f"lca {left} {right}", node.lines("dag", "lca", f"git:{left}", f"git:{right}", "--format", "git"), bases)
        theirs = git(repository, "merge-base", "--is-ancestor", left, right, codes=(0, 1)).returncode
        ours = node.run("dag", "is-ancestor", f"git:{left}", f"git:{right}", codes=(0, 1)).returncode
        check(f"is-ancestor {left} {right}", [ours], [theirs])
        ours = node.lines("dag", "range", f"git:{left}..git:{right}", "--format", "git")
        # With --topo-order git walks by the generations of its commit-graph; without, by commit times with some slack, which
        # gives wrong sets where clocks were skewed by more.
        theirs = git(repository, "rev-list", "--topo-order", f"{left}..{right}").stdout.split()
        check(f"range {left}..{right}", ours, theirs)
        if number % 4 == 0:
            ours = node.lines("dag", "ancestors", f"git:{left}", "--format", "git")
            check(f"ancestors {left}", ours, git(repository, "rev-list", left).stdout.split())
    return len(commits), wrong


def timed(rounds, *actions):
    """For each action the median, least and most of its seconds. They take turns, so that noise meets them alike."""
    took = [[] for _ in actions]
    for _ in range(rounds):
        for seconds, action in zip(took, actions):
            seconds.append(action())
    return [(statistics.median(seconds), min(seconds), max(seconds)) for seconds in took]


def run_all(commands, environment=None):
    """Seconds of these commands, one after the other."""
    began = time.perf_counter()
    for words in commands:
        subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def measure(node, repository, seed):
    """Walls of both commands, then what is left of each without its process: ours as the node counts it, git's as the wall less that
    of a git that only starts (`git version`), and libgit2's in this process when `pygit2` is installed."""
    commits = git(repository, "rev-list", "--all").stdout.split()
    heads = git(repository, "for-each-ref", "--format=%(objectname)", "refs/heads").stdout.split()
    tip = max(heads, key=lambda head: int(git(repository, "rev-list", "--count", head).stdout))
    pick = random.Random(seed)
    pairs = [(pick.choice(commits), pick.choice(commits)) for _ in range(1000)]
    library = libgit2(repository, tip, pairs)
    cases = [
        ("full ancestor walk", 9, [["ancestors", f"git:{tip}"]], [["rev-list", tip]], [["rev-list", "--count", tip]]),
        (
            "1,000 merge bases, a process each",
            3,
            [["lca", f"git:{left}", f"git:{right}"] for left, right in pairs],
            [["merge-base", "--all", left, right] for left, right in pairs],
            None,
        ),
    ]
    for what, rounds, ours, theirs, counted in cases:
        ours = [[node.qmesh, "dag", *words, "--format", "git"] for words in ours]
        theirs = [["git", "-C", repository, *words] for words in theirs]
        # git prints its commits while it walks; where it can count them instead, that is the fairer figure.
        bare = [["git", "-C", repository, *words] for words in counted] if counted else theirs
        start = [["git", "version"]] * len(theirs)
        in_node = []

        def ours_run():
            before = node.walked_us()
            seconds = run_all(ours, node.environment)
            in_node.append((node.walked_us() - before) / 1e6)
            return seconds

        ours_took, theirs_took, bare_took, start_took = timed(
            rounds, ours_run, lambda: run_all(theirs), lambda: run_all(bare), lambda: run_all(start)
        )
        show = lambda took: f"{took[0]*1e3:.1f} ms [{took[1]*1e3:.1f}..{took[2]*1e3:.1f}]"
        inside, without = statistics.median(in_node), bare_took[0] - start_took[0]
        print(f"{what}, {rounds} rounds, load {os.getloadavg()[0]:.1f}:")
        print(f"  commands: qmesh {show(ours_took)}, git {show(theirs_took)}, git/qmesh {theirs_took[0]/ours_took[0]:.2f}")
        print(
            f"  without processes: in the node {inside*1e3:.2f} ms, git {without*1e3:.2f} ms "
            f"({'rev-list --count' if counted else 'the same'} less {start_took[0]*1e3:.1f} ms of `git version`), "
            f"git/qmesh {without/inside:.1f}"
        )
        if library:
            (took,) = timed(rounds, library[what])
            print(f"  libgit2 in process: {show(took)}, libgit2/qmesh {took[0]/inside:.1f}")


def libgit2(repository, tip, pairs):
    """The same questions to libgit2 in this process, when it is installed."""
    try:
        import pygit2
    except ImportError:
        return None
    opened = pygit2.Repository(repository)

    def walk():
        began = time.perf_counter()
        for _ in opened.walk(tip, pygit2.enums.SortMode.NONE):
            pass
        return time.perf_counter() - began

    def bases():
        began = time.perf_counter()
        for left, right in pairs:
            # One best base; the library has no call for all of them.
            opened.merge_base(left, right)
        return time.perf_counter() - began

    return {"full ancestor walk": walk, "1,000 merge bases, a process each": bases}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--qmesh", required=True)
    arguments.add_argument("--repository")
    arguments.add_argument("--commits", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--pairs", type=int, default=200)
    arguments.add_argument("--time", action="store_true")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = asked.repository
        if repository is None:
            repository = f"{folder}/history"
            generate = pathlib.Path(__file__).with_name("generate.py")
            words = [sys.executable, generate, repository, "--commits", str(asked.commits), "--seed", str(asked.seed)]
            subprocess.run(words, check=True)
        qmesh = str(pathlib.Path(asked.qmesh).resolve())
        node = Node(qmesh, f"{folder}/data")
        began = time.perf_counter()
        print(node.run("dag", "import", "git", repository).stdout.strip())
        print(f"import took {time.perf_counter() - began:.2f} s")
        commits, wrong = compare(node, repository, asked.pairs, asked.seed)
        if asked.time:
            measure(node, repository, asked.seed)
        node.stop()
    print(f"{commits} commits, {asked.pairs} pairs: {'identical' if wrong == 0 else f'{wrong} DIFFERENT'}")
    print(f"{asked.pairs - min(wrong, asked.pairs)} passed, {wrong} failed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
