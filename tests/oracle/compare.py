#!/usr/bin/env python3
"""Compares every graph answer with git's on the same history, then times both.

    compare.py --qmesh target/release/qmesh [--repository PATH | --commits 5000 --seed 1] [--pairs 200] [--time]

Starts a node of its own on a temporary data directory, imports the repository (a generated one unless PATH is given), and for
random pairs of commits compares ancestors, A..B, all merge bases and is-ancestor with `git rev-list`, `git merge-base --all` and
`git merge-base --is-ancestor`. Any difference is printed and the exit code is 1. `--time` then measures, in one run: the full
ancestor walk and 1,000 merge-base queries, each as one process a query, against git with a commit-graph.
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


def timed(rounds, action):
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        took.append(time.perf_counter() - began)
    return statistics.median(took), min(took), max(took)


def measure(node, repository, seed):
    commits = git(repository, "rev-list", "--all").stdout.split()
    heads = git(repository, "for-each-ref", "--format=%(objectname)", "refs/heads").stdout.split()
    tip = max(heads, key=lambda head: int(git(repository, "rev-list", "--count", head).stdout))
    pick = random.Random(seed)
    pairs = [(pick.choice(commits), pick.choice(commits)) for _ in range(1000)]
    quiet = {"stdout": subprocess.DEVNULL, "check": False}

    def ours_walk():
        subprocess.run([node.qmesh, "dag", "ancestors", f"git:{tip}", "--format", "git"], env=node.environment, **quiet)

    def theirs_walk():
        subprocess.run(["git", "-C", repository, "rev-list", tip], **quiet)

    def ours_bases():
        for left, right in pairs:
            words = [node.qmesh, "dag", "lca", f"git:{left}", f"git:{right}", "--format", "git"]
            subprocess.run(words, env=node.environment, **quiet)

    def theirs_bases():
        for left, right in pairs:
            subprocess.run(["git", "-C", repository, "merge-base", "--all", left, right], **quiet)

    for what, rounds, ours, theirs in [
        ("full ancestor walk", 9, ours_walk, theirs_walk),
        ("1,000 merge bases, a process each", 3, ours_bases, theirs_bases),
    ]:
        ours_took, theirs_took = timed(rounds, ours), timed(rounds, theirs)
        show = lambda took: f"{took[0]*1e3:.1f} ms [{took[1]*1e3:.1f}..{took[2]*1e3:.1f}]"
        print(f"{what}: qmesh {show(ours_took)}, git {show(theirs_took)}, qmesh/git {ours_took[0]/theirs_took[0]:.2f}")


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
