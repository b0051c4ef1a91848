#!/usr/bin/env python3
"""Makes a git repository with the shapes that graph code gets wrong: octopus merges, criss-cross merges, many roots.

    generate.py DIRECTORY [--commits 5000] [--seed 1]

Only `git init` and `git fast-import` are used; the same seed makes the same commits.
"""
import argparse
import random
import subprocess
import sys


def stream(commits: int, seed: int):
    """The fast-import stream: one blob a commit, marks from 1."""
    pick = random.Random(seed)
    heads: list[int] = []  # Marks of branch tips.
    made = 0
    time = 1_600_000_000

    def commit(parents: list[int]) -> int:
        nonlocal made, time
        made += 1
        # Skewed clocks: git must not, and we must not, trust commit times for ancestry.
        time += pick.choice([60, 60, 60, 3600, -86_400 if pick.random() < 0.05 else 60])
        message = f"commit {made} of seed {seed}\n\nparents: {len(parents)}\n".encode()
        lines = [b"commit refs/heads/scratch", b"mark :%d" % made]
        who = b"Ada Example <ada%d@example.org> %d +0200" % (made % 7, time)
        lines += [b"author " + who, b"committer " + who, b"data %d" % len(message), message.rstrip(b"\n")]
        text = b"\n".join(lines) + b"\n"
        if parents:
            text += b"from :%d\n" % parents[0]
            for parent in parents[1:]:
                text += b"merge :%d\n" % parent
        else:
            # A root: start the scratch branch from nothing.
            text = b"reset refs/heads/scratch\n\n" + text
        content = b"%d" % made
        text += b"M 100644 inline file%d\ndata %d\n%s\n\n" % (made % 97, len(content), content)
        sys_out.append(text)
        return made

    sys_out: list[bytes] = []
    heads.append(commit([]))
    while made < commits:
        roll = pick.random()
        if roll < 0.01:
            heads.append(commit([]))  # One more root.
        elif roll < 0.12 and len(heads) < 40:
            heads.append(commit([pick.choice(heads)]))  # A branch.
        elif roll < 0.17 and 3 <= len(heads):
            several = pick.sample(heads, min(len(heads), pick.randint(3, 8)))  # An octopus.
            merged = commit(several)
            heads[heads.index(several[0])] = merged
            for head in several[1 : 1 + pick.randint(0, 2)]:
                if 4 < len(heads):
                    heads.remove(head)
        elif roll < 0.24 and 2 <= len(heads):
            left, right = pick.sample(range(len(heads)), 2)  # A criss-cross: each merges the other.
            one, two = heads[left], heads[right]
            heads[left], heads[right] = commit([one, two]), commit([two, one])
        elif roll < 0.34 and 2 <= len(heads):
            left, right = pick.sample(range(len(heads)), 2)  # A plain merge; the branch may end.
            heads[left] = commit([heads[left], heads[right]])
            if pick.random() < 0.5 and 3 < len(heads):
                heads.pop(right)
        else:
            at = pick.randrange(len(heads))
            heads[at] = commit([heads[at]])
    for number, head in enumerate(heads):
        sys_out.append(b"reset refs/heads/branch%d\nfrom :%d\n\n" % (number, head))
    sys_out.append(b"tag v1\nfrom :%d\ntagger Ada Example <ada@example.org> %d +0000\ndata 3\none\n" % (heads[0], time))
    sys_out.append(b"done\n")
    return sys_out


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("directory")
    arguments.add_argument("--commits", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=1)
    asked = arguments.parse_args()
    subprocess.run(["git", "init", "-q", "-b", "branch0", asked.directory], check=True)
    git = subprocess.Popen(["git", "-C", asked.directory, "fast-import", "--quiet", "--done"], stdin=subprocess.PIPE)
    for piece in stream(asked.commits, asked.seed):
        git.stdin.write(piece)
    git.stdin.close()
    if git.wait() != 0:
        sys.exit("git fast-import failed")
    subprocess.run(["git", "-C", asked.directory, "update-ref", "-d", "refs/heads/scratch"], check=True)
    subprocess.run(["git", "-C", asked.directory, "commit-graph", "write", "--reachable"], check=True)


if __name__ == "__main__":
    main()
