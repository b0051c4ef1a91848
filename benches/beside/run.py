#!/usr/bin/env python3
"""Our figures and the limits beside them, taken in one run; peers join when they are found or named.

    run.py --qmesh target/release/qmesh [--rounds 3] [--seconds 4] [--directory DIR] [--only put,log,get,mcp,open,graph]
           [--put-peer NAME=COMMAND]... [--log-peer NAME=COMMAND]... [--mcp-peer NAME=URL]...

Each round runs every row once, so that noise meets them alike; a cell is the median with the least and the most. A measurement waits
until other processes leave the CPUs alone, and is taken again, three times at most, when their code took more than a tenth of them
meanwhile; the column `others` says what share they had all the same. `put` is durable
puts of 1 KiB through the QUIC client of a node with the default profile; below it stands what the disk alone makes of rounds of the
very size that the node had (`qmesh bench disk`: one write and one fdatasync, a file written before). `log` is the same log in this
process. `get` reads hot vertices, `mcp` calls a tool, `open` is a node that starts on 10^4, 10^5 and 10^6 vertices, `graph` is
tests/oracle/compare.py --time. With redis-server and redis-benchmark on the PATH, Redis stands beside `put` with appendfsync always.

A COMMAND may hold {in_flight} and {seconds} and prints a line `peer workload in_flight ops_per_s p50_us p99_us server_cpu_us …`,
as /…/netbench and /…/embbench do. The directory must lie on the disk to be measured, and wants some 20 GB.
"""
import argparse
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

IN_FLIGHT = [1, 64, 256]
MCP_CONNECTIONS = 32
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Node:
    """A node on a data directory; stopped at the end of its `with`."""

    def __init__(self, qmesh, data):
        self.qmesh, began = qmesh, time.perf_counter()
        self.process = subprocess.Popen(
            [qmesh, "up", "--data", data, "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0", "-o", "json"],
            stdout=subprocess.PIPE,
        )
        self.ready = json.loads(self.process.stdout.readline())
        self.ready_ms = (time.perf_counter() - began) * 1e3
        self.environment = dict(os.environ, QMESH_NODE=self.ready["quic"])
        OWN.add(self.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        OWN.remove(self.process.pid)
        self.process.terminate()
        self.process.wait()

    def bench(self, *words):
        return run_json([self.qmesh, "bench", *words, "-o", "json"], self.environment)

    def stats(self):
        return run_once([self.qmesh, "stats", "-o", "json"], self.environment)


OWN = set()  # Servers that run beside the measurements and belong to them, by process id.
TURNS_MAX = 4
FOREIGN_MAX = 0.10
IDLE_WAIT_S = 60


def user_ticks():
    """User time of the whole machine, and of what belongs to this run, in ticks."""
    whole = sum(int(field) for field in pathlib.Path("/proc/stat").read_text().split()[1:3])
    times = os.times()
    own = (times.user + times.children_user) * os.sysconf("SC_CLK_TCK")
    for process in OWN:
        own += int(pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11])
    return whole, own


def wait_until_idle():
    """Until other processes leave the CPUs alone for a moment; a minute at most."""
    until = time.monotonic() + IDLE_WAIT_S
    while time.monotonic() < until:
        (whole, own), began = user_ticks(), time.monotonic()
        time.sleep(0.25)
        later, own_later = user_ticks()
        if foreign(later - whole, own_later - own, time.monotonic() - began) <= FOREIGN_MAX:
            return


def foreign(whole, own, seconds):
    """Share of the CPUs that others' user code took."""
    return max(0, whole - own) / (seconds * os.sysconf("SC_CLK_TCK") * os.cpu_count())


def undisturbed(measure):
    """Measures; again, a few times at most, when other processes took more than a tenth of the CPUs meanwhile."""
    best = None
    for _ in range(TURNS_MAX):
        wait_until_idle()
        (whole, own), began = user_ticks(), time.monotonic()
        told = measure()
        later, own_later = user_ticks()
        share = foreign(later - whole, own_later - own, time.monotonic() - began)
        if best is None or share < best[0]:
            best = (share, told)
        if share <= FOREIGN_MAX:
            break
    if isinstance(best[1], dict):
        best[1]["others"] = best[0]
    return best[1]


def run_json(words, environment=None):
    """What the command printed, and the CPU that its process took."""
    return undisturbed(lambda: run_once(words, environment))


def run_once(words, environment):
    before = os.times()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stderr}")
    told = json.loads(done.stdout)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    if "ops" in told:
        # The warm-up is in the process's CPU and not in its operations.
        told["client_cpu_us"] = spent * 1e6 / max(told["ops"], 1) * told["seconds"] / (told["seconds"] + WARM_S)
    return told


WARM_S = 1.0


class Table:
    """Rows of figures by name, a list of rounds each."""

    def __init__(self, title):
        self.title, self.rows = title, {}

    def add(self, row, **figures):
        known = self.rows.setdefault(row, {})
        for name, figure in figures.items():
            if figure is not None:
                known.setdefault(name, []).append(figure)

    def median(self, row, name):
        return statistics.median(self.rows[row][name])

    def print(self):
        names = list(dict.fromkeys(name for figures in self.rows.values() for name in figures))
        print(f"\n## {self.title}\n\n| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
        for row, figures in self.rows.items():
            print(f"| {row} | " + " | ".join(cell(figures.get(name)) for name in names) + " |", flush=True)


def cell(rounds):
    if not rounds:
        return ""
    show = lambda figure: f"{figure:,.0f}" if 1000 <= figure else f"{figure:,.1f}" if 10 <= figure else f"{figure:.2f}"
    middle = show(statistics.median(rounds))
    return middle if len(rounds) == 1 else f"{middle} [{show(min(rounds))}..{show(max(rounds))}]"


def peer(command, in_flight, seconds):
    """One run of a peer's own load generator."""
    words = shlex.split(command.format(in_flight=in_flight, seconds=seconds))
    return undisturbed(lambda: peer_once(words))


def peer_once(words):
    done = subprocess.run(words, capture_output=True, text=True)
    fields = (done.stdout.strip().splitlines() or [""])[-1].split()
    if done.returncode != 0 or len(fields) < 7:
        print(f"(skipped: {' '.join(words)}: {done.stderr.strip()[-200:]})", file=sys.stderr)
        return {}
    return {"a second": float(fields[3]), "p50 us": float(fields[4]), "p99 us": float(fields[5]), "server CPU us": float(fields[6])}


def figures(told):
    return {
        "a second": told["ops_per_s"],
        "p50 us": told["p50_us"],
        "p99 us": told["p99_us"],
        "server CPU us": told.get("server_cpu_us"),
        "client CPU us": told.get("client_cpu_us"),
        "others": told["others"],
    }


def disk(asked, table, row, told):
    """What the disk alone makes of rounds of this size, in the records that such a round carried."""
    if not told.get("rounds_per_s"):
        return
    records = told["ops_per_s"] / told["rounds_per_s"]
    for rounds in [1, 2]:
        words = ["--directory", asked.directory, "--round-bytes", str(int(told["round_bytes"])), "--rounds-in-flight", str(rounds)]
        words += ["--seconds", str(asked.seconds / 2), "--warm", "0.2"]
        alone = run_json([asked.qmesh, "bench", "disk", *words, "-o", "json"])
        table.add(f"{row}: the disk alone, {rounds} of its rounds at a time", **{"a second": alone["ops_per_s"] * records, "p50 us": alone["p50_us"]})
        table.add(row, **{f"of the disk, {rounds}": told["ops_per_s"] / (alone["ops_per_s"] * records)})
    table.add(row, **{"records a round": records})


class Redis:
    """redis-server with appendfsync always, driven by redis-benchmark; None when either is not there."""

    @staticmethod
    def find(asked, folder):
        return Redis(folder) if shutil.which("redis-server") and shutil.which("redis-benchmark") and not asked.put_peer else None

    def __init__(self, folder):
        os.makedirs(f"{folder}/redis")
        words = ["redis-server", "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--dir", f"{folder}/redis"]
        self.port = "7117"
        words[2] = self.port
        words += ["--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        OWN.add(self.process.pid)
        time.sleep(0.5)

    def cpu_us(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * TICK_US

    def put(self, in_flight, seconds):
        return undisturbed(lambda: self.put_once(in_flight, seconds))

    def put_once(self, in_flight, seconds):
        # It counts operations, not time: about as many as take the time asked for.
        count = int(seconds * {1: 3_000, 64: 30_000, 256: 40_000}[in_flight])
        words = ["redis-benchmark", "-p", self.port, "-t", "set", "-d", "1024", "-r", "1000000000", "-c", str(in_flight), "-n", str(count), "--csv"]
        before = self.cpu_us()
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        cpu = (self.cpu_us() - before) / count
        fields = [field.strip('"') for field in done.stdout.strip().splitlines()[-1].split(",")]
        return {"a second": float(fields[1]), "p50 us": float(fields[4]) * 1e3, "p99 us": float(fields[6]) * 1e3, "server CPU us": cpu}

    def stop(self):
        OWN.remove(self.process.pid)
        self.process.terminate()
        self.process.wait()


def put(asked, folder):
    table = Table("Durable put of 1 KiB over QUIC, by operations in flight")
    redis = Redis.find(asked, folder)
    with Node(asked.qmesh, f"{folder}/put") as node:
        for _ in range(asked.rounds):
            for in_flight in IN_FLIGHT:
                told = node.bench("put", "--in-flight", str(in_flight), "--seconds", str(asked.seconds), "--warm", str(WARM_S))
                table.add(f"qmesh, {in_flight}", **figures(told))
                disk(asked, table, f"qmesh, {in_flight}", told)
                for name, command in asked.put_peer:
                    table.add(f"{name}, {in_flight}", **peer(command, in_flight, asked.seconds))
                if redis:
                    table.add(f"Redis, redis-benchmark, {in_flight}", **redis.put(in_flight, asked.seconds))
    if redis:
        redis.stop()
    table.print()


def log(asked, folder):
    table = Table("Durable append of 1 KiB in process, by writers")
    for _ in range(asked.rounds):
        for in_flight in IN_FLIGHT:
            words = ["--directory", folder, "--in-flight", str(in_flight), "--seconds", str(asked.seconds), "--warm", str(WARM_S)]
            told = run_json([asked.qmesh, "bench", "log", *words, "-o", "json"])
            told.pop("client_cpu_us")
            table.add(f"qmesh's log, {in_flight}", **figures(told))
            disk(asked, table, f"qmesh's log, {in_flight}", told)
            for name, command in asked.log_peer:
                table.add(f"{name}, {in_flight}", **peer(command, in_flight, asked.seconds))
    table.print()


def get(asked, folder):
    table = Table("Get of a hot vertex of 1 KiB over QUIC, by operations in flight")
    with Node(asked.qmesh, f"{folder}/get") as node:
        for _ in range(asked.rounds):
            for in_flight in [1, 64]:
                words = ["--in-flight", str(in_flight), "--seconds", str(asked.seconds), "--warm", str(WARM_S)]
                table.add(f"qmesh, {in_flight}", **figures(node.bench("get", *words)))
    table.print()


def mcp(asked, folder):
    table = Table(f"MCP tools/call over HTTP/1.1, {MCP_CONNECTIONS} connections")
    load = ["--in-flight", str(MCP_CONNECTIONS), "--seconds", str(asked.seconds), "--warm", str(WARM_S)]
    echo = json.dumps({"message": "".join(chr(97 + at * 7 % 26) for at in range(1024))})
    with Node(asked.qmesh, f"{folder}/mcp") as node:
        for _ in range(asked.rounds):
            table.add("qmesh, dag_get of 1 KiB", **figures(node.bench("mcp", *load)))
            table.add("qmesh, node_status", **figures(node.bench("mcp", *load, "--tool", "node_status", "--arguments", "{}")))
            for name, url in asked.mcp_peer:
                words = ["--url", url, "--tool", "echo", "--arguments", echo]
                table.add(f"{name}, echo of 1 KiB", **figures(node.bench("mcp", *load, *words)))
    table.print()


def open_(asked, folder):
    table = Table("Starting on what is there, vertices of 100 B")
    with Node(asked.qmesh, f"{folder}/empty") as node:
        empty = node.stats()["resident_bytes"]
    for vertices in [10_000, 100_000, 1_000_000]:
        data = f"{folder}/open"
        with Node(asked.qmesh, data) as node:
            run_once([asked.qmesh, "bench", "fill", "--vertices", str(vertices), "--size", "100", "-o", "json"], node.environment)
        for _ in range(asked.rounds):
            with Node(asked.qmesh, data) as node:
                told = node.stats()
                dag, shards = told["dag"], [shard for core in told["cores"] for shard in core["shards"]]
                assert dag["vertices"] == vertices, f"{dag['vertices']} of {vertices} vertices"
                table.add(
                    f"{vertices:,} vertices",
                    **{
                        "ready in ms": node.ready_ms,
                        "recovered in ms": node.ready["took_ms"],
                        "resident B a vertex": (told["resident_bytes"] - empty) / vertices,
                        "skeleton B": dag["skeleton_bytes"] / vertices,
                        "index B": sum(shard["index_bytes"] for shard in shards) / vertices,
                    },
                )
        shutil.rmtree(data)
    table.print()


def graph(asked, _):
    compare = pathlib.Path(__file__).parents[2] / "tests/oracle/compare.py"
    words = [sys.executable, compare, "--qmesh", asked.qmesh, "--commits", "20000", "--pairs", "20", "--time"]
    print("\n## Graph questions beside git with a commit-graph, the same 20,000 commits\n", flush=True)
    subprocess.run(words, check=True)


SECTIONS = {"put": put, "log": log, "get": get, "mcp": mcp, "open": open_, "graph": graph}


def named(text):
    name, _, value = text.partition("=")
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=…")
    return name, value


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--qmesh", required=True, type=lambda path: str(pathlib.Path(path).resolve()))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=4.0)
    arguments.add_argument("--directory", default=".")
    arguments.add_argument("--only", default=",".join(SECTIONS))
    arguments.add_argument("--put-peer", type=named, action="append", default=[])
    arguments.add_argument("--log-peer", type=named, action="append", default=[])
    arguments.add_argument("--mcp-peer", type=named, action="append", default=[])
    arguments.add_argument("--own", type=int, action="append", default=[], help="process id of a peer's server")
    asked = arguments.parse_args()
    OWN.update(asked.own)
    sections = asked.only.split(",")
    if unknown := [name for name in sections if name not in SECTIONS]:
        arguments.error(f"--only {','.join(unknown)}: there are {', '.join(SECTIONS)}")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{os.cpu_count()} CPUs ({cpu}), Linux {os.uname().release}, {asked.rounds} rounds of {asked.seconds:g} s; median [least..most]")
    with tempfile.TemporaryDirectory(dir=asked.directory, prefix="qmesh-beside-") as folder:
        for name in sections:
            before = os.getloadavg()[0]
            SECTIONS[name](asked, folder)
            print(f"\n(load average {before:.1f} before, {os.getloadavg()[0]:.1f} after; it counts this run's own processes)", flush=True)


if __name__ == "__main__":
    main()
