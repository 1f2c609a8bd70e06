#!/usr/bin/env python3
"""Plants bugs in the CUDA kernels, one at a time, and requires that the tests notice each.

Usage: mutations.py --build BUILD [--only TEXT] [--list]

A mutant is one file compiled over the emulation with a bug in it, linked in front of everything else of kernels_tests,
which must have been built. Its detector is the tests themselves, ThreadSanitizer (a race) or AddressSanitizer with
UBSan (a wrong address); for the sanitizers only the mutant and the emulation are instrumented. The same files without a
bug must pass. A bug that goes unnoticed, and a text that a file no longer has exactly once, is an error.
"""
import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN_SECONDS_MAX = 60  # Of a mutant's tests: some loop for ever.

# Detector: flags of compiler and linker, and what it prints (any of these) when it has noticed something.
DETECTORS = {
    "test": ([], ["[  FAILED  ]", "cuda emulation: "]),
    "tsan": (["-fsanitize=thread"], ["WARNING: ThreadSanitizer: data race"]),
    "asan": (["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
             ["ERROR: AddressSanitizer", "runtime error: "]),
}
# What orders threads, besides the unit itself: a detector must see it.
ORDERING = ["tests/emulation/cuda_emulation.cc", "base/thread_pool.cc"]

DECODE = "kernels/cuda/linear_decode.cu"
MMA = "kernels/cuda/linear_mma.cu"
DP4A = "kernels/cuda/linear_dp4a.cu"
ATTENTION = "kernels/cuda/attention.cu"
TOP_K = "kernels/cuda/top_k.cu"
RMS_NORM = "kernels/cuda/rms_norm.cu"

LINEAR = "*QuantizedLinearIsTheReferenceBitForBit/cuda_"
RACES = "*CudaRacesTest."


@dataclasses.dataclass
class Mutation:
    """A bug: `edits` of `file`, pairs of an exact text and its replacement, compiled as part of `unit` (the file itself
    unless that is a header), which `detector` must notice in the tests that the gtest filter `tests` names."""
    name: str
    file: str
    edits: list
    detector: str
    tests: str
    unit: str = ""
    says: str = ""  # Part of the message, where only one will do.


MUTATIONS = [
    Mutation("decode: no barrier between sums and chain", DECODE,
             [("(a, first, last, exact);\n    __syncthreads();\n", "(a, first, last, exact);\n")],
             "test", RACES + "LinearDecode/*"),
    Mutation("decode: the same as a race", DECODE,
             [("(a, first, last, exact);\n    __syncthreads();\n", "(a, first, last, exact);\n")],
             "tsan", RACES + "LinearDecode/cuda_dp4a"),
    Mutation("decode: no barrier before the next panel", DECODE,
             [("row, token, sum);\n    __syncthreads();\n", "row, token, sum);\n")],
             "tsan", RACES + "LinearDecode/cuda_dp4a"),
    Mutation("decode: a shuffle without the last four lanes", DECODE,
             [("__shfl_xor_sync(kAllLanes, sum, 2)", "__shfl_xor_sync(0x0fffffffu, sum, 2)")],
             "test", RACES + "LinearDecode/*", says="not in its own mask"),
    Mutation("decode: two barriers for one block", DECODE,
             [("    if (owner) AddGroups<kPartial>(a, exact + threadIdx.x, kOutputs, first, last, row, token, sum);\n"
               "    __syncthreads();\n",
               "    if (owner) {\n"
               "      AddGroups<kPartial>(a, exact + threadIdx.x, kOutputs, first, last, row, token, sum);\n"
               "      __syncthreads();\n"
               "    } else {\n"
               "      __syncthreads();\n"
               "    }\n")],
             "test", RACES + "LinearDecode/*", says="divergent __syncthreads()"),
    Mutation("decode: wrong nibbles", DECODE, [("words[i] >> 4 & 0x0f0f0f0fu", "words[i] >> 4 & 0x07070707u")],
             "test", RACES + "LinearDecode/*"),
    Mutation("decode: sign of the group's offset", DECODE,
             [("group.n * sum + group.m * x_sum", "group.n * sum - group.m * x_sum")],
             "test", RACES + "LinearDecode/*"),
    Mutation("decode: no carry", DECODE, [("  sum.Carry();\n", "")], "test",
             "*ManyPartsOfLargeLowHalvesAreExact/cuda_sm75"),
    Mutation("decode: too little dynamic shared memory", DECODE,
             [("panel * kRows * kTokens * sizeof(int);", "(panel * kRows * kTokens - 1) * sizeof(int);")],
             "asan", RACES + "LinearDecode/*"),
    Mutation("decode: 32 columns past the last", DECODE, [("if (col < end) AddChunk", "if (col < end + 32) AddChunk")],
             "asan", LINEAR + "sm80"),
    Mutation("wide: no barrier after the stage was read", MMA,
             [("    __syncthreads();  // The stage has been read.\n", "")],
             "tsan", RACES + "LinearWide/cuda_sm75"),
    Mutation("wide: copies not waited for", MMA, [("    CopyAsyncWait<kSm80, 1>();\n", "")], "test",
             RACES + "LinearWide/*"),
    Mutation("wide: one stage instead of two", MMA,
             [("stages + (stage ^ 1) * kStageBytes", "stages + stage * kStageBytes")], "test", RACES + "LinearWide/*"),
    Mutation("wide: no carry", MMA, [("          if (g % 128 == 127) sums.values[j][2 * r + c].Carry();\n", "")],
             "test", "*ManyPartsOfLargeLowHalvesAreExact/cuda_sm80"),
    Mutation("mma: halves of the A fragment swapped", MMA,
             [("fragment[r] = words[r][2 * s];", "fragment[r] = words[r][2 * s + 1];"),
              ("fragment[2 + r] = words[r][2 * s + 1];", "fragment[2 + r] = words[r][2 * s];")],
             "test", RACES + "LinearSkinny/*"),
    Mutation("skinny: no barrier between sums and chain", MMA,
             [("* kTokens);\n    }\n    __syncthreads();\n", "* kTokens);\n    }\n")], "tsan",
             RACES + "LinearSkinny/cuda_sm75"),
    Mutation("dp4a: no barrier before the next slice", DP4A,
             [("    __syncthreads();\n    if ((begin", "    if ((begin")], "tsan", RACES + "LinearSkinny/cuda_dp4a"),
    Mutation("dp4a: no zeros past the last token", DP4A, [("token < a.tokens ? *rein", "token <= a.tokens ? *rein")],
             "asan", LINEAR + "dp4a"),
    Mutation("attention: a token sees the one after it", ATTENTION,
             [("rows.VisibleOf(row) - position;\n    const int seen",
               "rows.VisibleOf(row) - position + 1;\n    const int seen")],
             "test", RACES + "Attention/*"),
    Mutation("attention: a factor missing where partitions merge", ATTENTION,
             [("theirs, total * mine)", "theirs, total)")], "test", RACES + "Attention/*"),
    Mutation("attention: the same in prefill", ATTENTION, [("all.total[i] * mine[i])", "all.total[i])")], "test",
             RACES + "Attention/*"),
    Mutation("attention: weights read without __syncwarp", ATTENTION, [("  __syncwarp();\n", "")], "tsan",
             RACES + "Attention/cuda_dp4a"),
    Mutation("attention: no barrier before the next tile", ATTENTION,
             [("      __syncthreads();  // The tile before has been read.\n", "")],
             "tsan", RACES + "Attention/cuda_dp4a"),
    Mutation("top-k: ties to the highest id", TOP_K,
             [("| ~static_cast<uint32_t>(id)", "| static_cast<uint32_t>(id)"),
              ("static_cast<int>(~static_cast<uint32_t>(key))", "static_cast<int>(static_cast<uint32_t>(key))")],
             "test", RACES + "TopK/*"),
    Mutation("top-k: no barrier between rounds of the sort", TOP_K,
             [("      }\n      __syncthreads();\n", "      }\n")], "tsan", RACES + "TopK/cuda_dp4a"),
    Mutation("rms norm: no barrier after the row was staged", "kernels/cuda/rms_norm.cuh",
             [("staged[j] = x;\n  }\n  __syncthreads();\n", "staged[j] = x;\n  }\n")], "tsan",
             RACES + "RmsNorm/cuda_dp4a", unit=RMS_NORM),
    Mutation("quantize: the largest of one lane for all", "kernels/cuda/quantize.cuh", [("MaxLanes<32>(bits)", "bits")],
             "test", RACES + "RmsNorm/*", unit=RMS_NORM),
    Mutation("staging: a slot filled again before its copy ran", "kernels/cuda/staging.h",
             [("      runtime_.WaitFor(next_);\n", "")], "test", "*WhatIsLargerThanTheStagingRing*/*late",
             unit="kernels/cuda/cuda_device.cc"),
]


class Failure(Exception):
    """What went wrong, for the person who reads it."""


class Workshop:
    """Compiles and links mutants with the commands of a build."""

    def __init__(self, build):
        self.build = build
        self.dir = build / "mutations"
        shutil.rmtree(self.dir, ignore_errors=True)
        self.compile = {}
        for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
            name = pathlib.Path(entry["file"]).resolve().relative_to(ROOT).as_posix()
            if "shoal_cuda_emulated.dir" in entry["command"] or name in ORDERING:
                self.compile[name] = shlex.split(entry["command"])
        commands = self.call(["ninja", "-t", "commands", "-s", "bin/kernels_tests"], "ninja").strip().splitlines()
        self.link = [w for w in shlex.split(commands[-1]) if w not in (":", "&&")]
        self.setarch = ["setarch", "-R"] if subprocess.run(["setarch", "-R", "true"], check=False,
                                                           capture_output=True).returncode == 0 else []

    def call(self, command, what):
        """Runs `command` in the build's folder; its output. Raises Failure if it fails."""
        done = subprocess.run(command, cwd=self.build, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False)
        if done.returncode != 0:
            raise Failure(f"{what} failed:\n{done.stdout[-3000:]}")
        return done.stdout

    def compile_object(self, unit, source, out, flags, include=None):
        """Compiles `source` as the build compiles `unit`, with less optimisation."""
        command = ["-O1" if w == "-O3" else w for w in self.compile[unit] if w != "-Werror"]
        command[command.index("-o") + 1] = str(out)
        command[command.index("-c") + 1] = str(source)
        if include is not None:
            command[1:1] = [f"-I{include}"]  # What was mutated there hides the original.
        if os.environ.get("CCACHE_DISABLE") is None and shutil.which("ccache") and command[0] != shutil.which("ccache"):
            command.insert(0, "ccache")
        self.call([*command, "-g1", *flags], f"compiling {unit}")

    def link_program(self, objects, out, flags):
        """Links kernels_tests with `objects` in front of its libraries."""
        at = self.link.index("-o")
        self.call([*self.link[:at], *flags, "-o", str(out), *map(str, objects), *self.link[at + 2:]], f"linking {out}")

    def run(self, program, tests):
        """Runs the tests: exit status (None where time ran out) and output."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GTEST_")}
        environment.update(ASAN_OPTIONS="detect_leaks=0", TSAN_OPTIONS="halt_on_error=1",
                           UBSAN_OPTIONS="halt_on_error=1", GTEST_FAIL_FAST="1", GTEST_BRIEF="1")
        try:
            done = subprocess.run([*self.setarch, str(program), f"--gtest_filter={tests}"], cwd=self.build, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=environment,
                                  errors="replace", timeout=RUN_SECONDS_MAX)
        except subprocess.TimeoutExpired as late:
            return None, (late.stdout or b"").decode(errors="replace")
        return done.returncode, done.stdout

    def emulation(self, detector):
        """The objects of ORDERING, where a detector wants them instrumented."""
        flags = DETECTORS[detector][0]
        objects = []
        for unit in ORDERING if flags else []:
            objects.append(self.dir / f"{pathlib.Path(unit).stem}_{detector}.o")
            self.compile_object(unit, ROOT / unit, objects[-1], flags)
        return objects

    def check_clean(self, unit, detector, tests, emulation):
        """The unit without a bug must pass what its mutants are to fail."""
        program = self.build / "bin" / "kernels_tests"
        if detector != "test":
            place = self.dir / f"clean_{pathlib.Path(unit).stem}_{detector}"
            place.mkdir(parents=True)
            flags = DETECTORS[detector][0]
            self.compile_object(unit, ROOT / unit, place / "unit.o", flags)
            program = place / "tests"
            self.link_program([place / "unit.o", *emulation], program, flags)
        status, output = self.run(program, tests)
        if status != 0 or "[  PASSED  ] 0 tests" in output or "[  PASSED  ]" not in output:
            raise Failure(f"fails, or has no tests, without a bug (status {status}):\n{output[-3000:]}")
        if detector != "test":
            program.unlink()
        return "passes"

    def check_mutant(self, index, mutation, emulation):
        """Raises Failure unless the detector notices the bug; what it said."""
        unit = mutation.unit or mutation.file
        place = self.dir / f"mutant_{index}"
        (place / mutation.file).parent.mkdir(parents=True)
        (place / mutation.file).write_text(mutated(mutation), encoding="utf-8")
        source = place / unit if unit == mutation.file else ROOT / unit
        flags, signs = DETECTORS[mutation.detector]
        self.compile_object(unit, source, place / "unit.o", flags, place)
        self.link_program([place / "unit.o", *emulation], place / "tests", flags)
        status, output = self.run(place / "tests", mutation.tests)
        (place / "tests").unlink()
        lines = [line for line in output.splitlines() if any(sign in line for sign in signs)]
        if status in (0, None) or not lines or mutation.says not in output:
            raise Failure(f"UNNOTICED (status {status}):\n{output[-1500:]}")
        return lines[0].strip()[:100]


def mutated(mutation):
    """The text of the file with the bug."""
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    for old, new in mutation.edits:
        if text.count(old) != 1:
            raise Failure(f"{mutation.file} has this text {text.count(old)} times instead of once: {old!r}")
        text = text.replace(old, new)
    return text


def main():
    """Returns the number of errors, as an exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True, help="the folder of a build without sanitizers")
    parser.add_argument("--only", default="", help="mutations whose name has this text")
    parser.add_argument("--list", action="store_true", help="name them and do nothing")
    arguments = parser.parse_args()
    chosen = [(i, m) for i, m in enumerate(MUTATIONS) if arguments.only in m.name]
    if arguments.list:
        print("\n".join(f"{m.detector} {m.name}" for _, m in chosen))
        return 0
    workshop = Workshop(arguments.build.resolve())
    workshop.dir.mkdir()
    wanted = {}  # (unit, detector): its mutants' tests.
    for _, m in chosen:
        wanted.setdefault((m.unit or m.file, m.detector), set()).add(m.tests)
    emulation = {d: workshop.emulation(d) for d in {d for _, d in wanted}}

    def timed(work, *args):
        began = time.monotonic()
        try:
            return True, work(*args), time.monotonic() - began
        except Failure as failure:
            return False, str(failure), time.monotonic() - began

    errors = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        jobs = [(f"no bug: {unit}", detector,
                 pool.submit(timed, workshop.check_clean, unit, detector, ":".join(sorted(tests)), emulation[detector]))
                for (unit, detector), tests in wanted.items()]
        jobs += [(m.name, m.detector, pool.submit(timed, workshop.check_mutant, i, m, emulation[m.detector]))
                 for i, m in chosen]
        for name, detector, job in jobs:
            good, text, seconds = job.result()
            errors += not good
            print(f"{'ok  ' if good else 'FAIL'} {detector:4} {seconds:5.1f} s  {name}: {text}", flush=True)
    print(f"{len(jobs)} checks, {errors} failed")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
