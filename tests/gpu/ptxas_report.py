#!/usr/bin/env python3
"""Registers, stack, spills and shared memory of every CUDA kernel, per GPU architecture; fails where a kernel of the
decode step spills or is over a limit.

Reads what the build has kept beside its objects (FILE.cu.o.ptxas, cmake/keep_ptxas_report.sh). Files that have no
such report there are compiled with --nvcc. Dynamic shared memory is the launch's and not seen here.
"""
import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCHITECTURES = ["sm_75", "sm_86", "sm_90"]
REGISTERS_MAX = 255
STATIC_SHARED_MAX = 48 << 10
# Kernels that every decode step runs. Others (prefill, dense weights) are only reported.
DECODE = ["LinearDecode", "DecodePartition", "DecodeMerge", "RmsNorm", "HeadRmsNorm", "AddResidual", "Rope", "RopeTable",
          "StoreKv", "StoreKvInt8", "Embed", "GatherRows", "TopKChunk", "Quantize"]
DECODE_IF_THERE = ["AllReduce.*", "Put", "Get"]


@dataclasses.dataclass
class Usage:
    """What one kernel, or function that was not inlined, takes on one architecture."""
    name: str  # "LinearDecode<true, 1, 4, false>"
    architecture: str
    entry: bool
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0

    @property
    def base(self):
        """The name without template arguments."""
        return self.name.split("<")[0]

    @property
    def decode(self):
        """Whether the limits bind."""
        return self.entry and any(re.fullmatch(p, self.base) for p in DECODE + DECODE_IF_THERE)


def parse(text):
    """Yields the Usages in what ptxas -v said; mangled names."""
    entry = current = None
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(sm_\d+)\w*'", line):
            entry = current = Usage(match[1], match[2], True)
            yield entry
        elif match := re.search(r"Function properties for (\S+)", line):
            if entry and match[1] != entry.name:
                current = Usage(match[1], entry.architecture, False)
                yield current
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if current:
                current.stack, current.spills = int(match[1]), int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            if entry:
                entry.registers = int(match[1])
                shared = re.search(r"(\d+) bytes smem", line)
                entry.shared = int(shared[1]) if shared else 0
                total = re.search(r"(\d+) bytes cumulative stack", line)
                entry.stack = max(entry.stack, int(total[1]) if total else 0)


def shorten(usages):
    """Replaces mangled names by short ones: without namespaces and parameters."""
    names = sorted({u.name for u in usages})
    plain = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True).stdout
    short = {}
    for mangled, name in zip(names, plain.splitlines()):
        name = re.sub(r"\(anonymous namespace\)::|\b(\w+::)+", "", name)
        name = re.sub(r"\(.*", "", name)
        short[mangled] = re.sub(r"^(void|double|float|int) ", "", name)
    for usage in usages:
        usage.name = short[usage.name]


def compile_report(nvcc, source):
    """What ptxas says of one .cu file when it is compiled as the build does."""
    with tempfile.TemporaryDirectory() as folder:
        code = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in ARCHITECTURES]
        command = [nvcc, "-std=c++20", "-O3", "-fmad=false", "-Xptxas", "-v", f"-I{ROOT}", *code, "-c", str(source), "-o",
                   os.path.join(folder, "x.o")]
        return subprocess.run(command, text=True, capture_output=True, check=True, timeout=900).stderr


def collect(build, nvcc):
    """All Usages, with short names, of the .cu files of kernels/cuda."""
    usages = []
    for source in sorted((ROOT / "kernels/cuda").glob("*.cu")):
        kept = sorted(build.rglob(f"shoal_cuda.dir/**/{source.name}.o.ptxas")) if build else []
        text = kept[0].read_text(encoding="utf-8") if kept else ""
        if "Compiling entry" not in text:
            if not nvcc:
                sys.exit(f"ptxas_report.py: no report of {source.name} under {build}; build shoal_cuda or give --nvcc")
            text = compile_report(nvcc, source)
        usages += parse(text)
    usages = [u for u in usages if not u.name.startswith("__internal")]
    shorten(usages)
    return usages


def table(usages, every):
    """One line per kernel, or per template instance; of several the worst."""
    lines = [f"{'kernel':44}" + "".join(f" | {a}: reg stack spill shared" for a in ARCHITECTURES)]
    groups = {}
    for usage in usages:
        name = usage.name if every else usage.base
        groups.setdefault((not usage.decode, not usage.entry, name), []).append(usage)
    for key in sorted(groups):
        rows = groups[key]
        instances = len({u.name for u in rows})
        mark = "" if not key[1] else " (function)"
        cells = []
        for architecture in ARCHITECTURES:
            here = [u for u in rows if u.architecture == architecture]
            worst = [max((getattr(u, f) for u in here), default=0) for f in ("registers", "stack", "spills", "shared")]
            cells.append(f" | {worst[0]:10d} {worst[1]:5d} {worst[2]:5d} {worst[3]:6d}")
        label = key[2] + (f" x{instances}" if instances > 1 else "") + mark + (" *" if not key[0] else "")
        lines.append(f"{label:44}" + "".join(cells))
    lines.append("* part of the decode step: no spills allowed. Of several instances (xN) the worst is shown.")
    return lines


def problems(usages):
    """Yields what breaks a limit, and decode kernels that are nowhere."""
    for u in usages:
        where = f"{u.name} on {u.architecture}"
        if u.decode and u.spills:
            yield f"{where}: spills {u.spills} bytes"
        if u.registers > REGISTERS_MAX:
            yield f"{where}: {u.registers} registers"
        if u.shared > STATIC_SHARED_MAX:
            yield f"{where}: {u.shared} bytes of static shared memory"
        if u.entry and not u.registers:
            yield f"{where}: ptxas said nothing of it"
    for name in DECODE:
        for architecture in ARCHITECTURES:
            if not any(u.entry and u.base == name and u.architecture == architecture for u in usages):
                yield f"{name} on {architecture}: no such kernel; mend the list in ptxas_report.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="build folder (default: build)")
    parser.add_argument("--nvcc", help="compiles files of which the build has no report")
    parser.add_argument("--all", action="store_true", help="a line for every template instance")
    arguments = parser.parse_args()
    usages = collect(arguments.build, arguments.nvcc)
    print("\n".join(table(usages, arguments.all)))
    wrong = list(problems(usages))
    print("\n".join(wrong) or f"ok: {len(usages)} kernels and functions")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
