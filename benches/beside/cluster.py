#!/usr/bin/env python3
"""Clusters on this machine: durable puts at a majority beside peers, and how a cluster grows with members and groups.

    cluster.py --qmesh target/release/qmesh [--rounds 3] [--seconds 5] [--directory DIR] [--only put,growth] [--put-peer NAME=COMMAND]...

`put` is three members, durable puts of 1 KiB at one of them through QUIC; the CPU is that of all three, and below it stand the syncs and
the UDP datagrams that an operation took. A COMMAND is that of run.py; it has its three servers running already. `growth` makes clusters
of 1, 3 and 5 members with 4, 16 and 64 shards and takes each one's CPU when nobody asks anything, a put load of 64 in flight, and memory.
All members and the client share this machine's CPUs and its disk.
"""
import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from run import OWN, Table, TICK_US, figures, named, peer, run_once, undisturbed

IDLE_S = 10.0
WARM_S = 1.0
SETTLE_S = 120


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def field(process, at):
    return int(pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[at])


def datagrams():
    """UDP datagrams that this host has sent."""
    rows = [line.split() for line in pathlib.Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
    return int(dict(zip(*rows))["OutDatagrams"])


class Cluster:
    """Members on loopback, all with every role; stopped at the end of its `with`."""

    def __init__(self, qmesh, folder, members, shards, tuning="default"):
        self.qmesh, self.processes, self.addresses = qmesh, [], []
        first = f"127.0.0.1:{free_port()}"
        for number in range(1, members + 1):
            data = f"{folder}/n{number}"
            if number == 1:
                words = ["init", "--mesh", first, "--shards", str(shards)]
            else:
                token = self.ask("token", "issue").strip()
                words = ["join", first, "--token", token, "--mesh", f"127.0.0.1:{free_port()}"]
            subprocess.run([qmesh, *words, "--data", data, "--name", f"n{number}"], check=True, stdout=subprocess.DEVNULL)
            words = ["up", "--data", data, "--tuning", tuning, "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0", "-o", "json"]
            environment = dict(os.environ, QMESH_LOG="error,openraft=off")
            process = subprocess.Popen([qmesh, *words], stdout=subprocess.PIPE, env=environment)
            self.addresses.append(json.loads(process.stdout.readline())["quic"])
            self.processes.append(process)
            OWN.add(process.pid)
        if members == 5:
            self.ask("cluster", "replicas", "5")
        self.settle(shards + 1, members)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            OWN.remove(process.pid)
            process.terminate()
        for process in self.processes:
            process.wait()

    def ask(self, *words, at=0):
        return subprocess.run([self.qmesh, *words, "--node", self.addresses[at]], check=True, capture_output=True, text=True).stdout

    def settle(self, groups, votes):
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            asked = subprocess.run([self.qmesh, "cluster", "status", "-o", "json", "--node", self.addresses[0]], capture_output=True, text=True)
            # A cluster that is not formed yet has no status.
            told = json.loads(asked.stdout)["groups"] if asked.returncode == 0 else []
            if len(told) == groups and all(len(group["voters"]) == votes and group["primary"] for group in told):
                return
            time.sleep(0.2)
        raise SystemExit("the cluster does not settle")

    def primaries(self, members):
        """Gives the office of each shard to a member, and waits until it has it."""
        for shard, member in enumerate(members):
            self.ask("cluster", "promote", str(shard), f"n{member}")
        until = time.monotonic() + 60
        while time.monotonic() < until:
            told = json.loads(self.ask("cluster", "status", "-o", "json"))["groups"]
            if [group["primary"] for group in told if group["group"] != "control"] == members:
                return
            time.sleep(0.2)
        raise SystemExit(f"the offices do not go to {members}")

    def cpu_us(self):
        return sum(field(process.pid, at) for process in self.processes for at in (11, 12)) * TICK_US

    def syncs(self):
        told = [json.loads(self.ask("stats", "-o", "json", at=at)) for at in range(len(self.addresses))]
        return sum(log["syncs"] for node in told for core in node["cores"] for log in core["logs"])

    def memory_mib(self):
        pages = [int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1]) for process in self.processes]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / len(pages) / (1 << 20)

    def put(self, in_flight, seconds):
        return undisturbed(lambda: self.put_once(in_flight, seconds))

    def put_once(self, in_flight, seconds):
        # Without a warm-up the sums before and after are those of what was counted.
        self.bench(in_flight, WARM_S)
        cpu, syncs, sent = self.cpu_us(), self.syncs(), datagrams()
        told = self.bench(in_flight, seconds)
        ops = told["ops"]
        told["server_cpu_us"] = (self.cpu_us() - cpu) / ops
        told["syncs"], told["datagrams"] = (self.syncs() - syncs) / ops, (datagrams() - sent) / ops
        return told

    def bench(self, in_flight, seconds):
        words = [self.qmesh, "bench", "put", "--in-flight", str(in_flight), "--seconds", str(seconds), "--warm", "0", "-o", "json"]
        return run_once([*words, "--node", self.addresses[0]], None)


def put(asked, folder):
    table = Table("Replicated durable put of 1 KiB, three members, by operations in flight")
    # Three processes that each bind their core to the same CPU would leave the other idle.
    tuning = f"{folder}/unbound.toml"
    pathlib.Path(tuning).write_text("[cpu]\npin = false\n")
    with Cluster(asked.qmesh, folder, 3, 4, tuning) as cluster:
        for _ in range(asked.rounds):
            for in_flight in [1, 64, 256]:
                # As the peers are asked at their primary; and as whoever asks any member finds it.
                for where, primaries in [("at the primary", [1, 1, 1, 1]), ("at one of three primaries", [1, 2, 3, 1])]:
                    cluster.primaries(primaries)
                    told = cluster.put(in_flight, asked.seconds)
                    more = {"syncs an operation": told["syncs"], "datagrams an operation": told["datagrams"], "errors": told["errors"]}
                    table.add(f"qmesh {where}, {in_flight}", **figures(told), **more)
                for name, command in asked.put_peer:
                    table.add(f"{name}, {in_flight}", **peer(command, in_flight, asked.seconds))
    table.print()


def growth(asked, folder):
    table = Table("Growth: members and shards")
    for members in [1, 3, 5]:
        for shards in [4, 16, 64]:
            with Cluster(asked.qmesh, f"{folder}/{members}-{shards}", members, shards, "laptop") as cluster:
                time.sleep(2)
                cpu, began, sent = cluster.cpu_us(), time.monotonic(), datagrams()
                time.sleep(IDLE_S)
                took = time.monotonic() - began
                idle = (cluster.cpu_us() - cpu) / took / 1e4 / members
                sent = (datagrams() - sent) / took
                for _ in range(asked.rounds):
                    told = cluster.put(64, asked.seconds)
                    row = f"{members} members, {shards} shards"
                    table.add(row, **{"idle CPU a member, %": idle, "datagrams a second when idle": sent}, **figures(told))
                table.add(f"{members} members, {shards} shards", **{"memory a member, MiB": cluster.memory_mib()})
            print(f"({members} members, {shards} shards: done)", file=sys.stderr, flush=True)
    table.print()


SECTIONS = {"put": put, "growth": growth}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--qmesh", required=True, type=lambda path: str(pathlib.Path(path).resolve()))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--directory", default=".")
    arguments.add_argument("--only", default=",".join(SECTIONS))
    arguments.add_argument("--put-peer", type=named, action="append", default=[])
    arguments.add_argument("--own", type=int, action="append", default=[], help="process id of a peer's server")
    asked = arguments.parse_args()
    OWN.update(asked.own)
    for section in asked.only.split(","):
        with tempfile.TemporaryDirectory(dir=asked.directory) as folder:
            SECTIONS[section](asked, folder)


if __name__ == "__main__":
    main()
