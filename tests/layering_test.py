"""Checks that every #include goes down the stack of folders and that third-party headers stay where they belong.

Usage: layering_test.py ROOT. The table is the one of docs/ARCHITECTURE.md. The test first checks itself: violations
planted in a made-up tree must all be found, and a clean tree must give none.
"""
import pathlib
import re
import sys
import tempfile

# Folder: the other folders of ours that its files may include.
MAY_INCLUDE = {
    "base": set(),
    "kernels": {"base"},
    "parallel": {"base", "kernels"},
    "model": {"base", "kernels", "parallel"},
    "engine": {"base", "kernels", "parallel", "model"},
    "server": {"base", "parallel", "model", "engine", "proto"},
    "tools": {"base", "kernels", "parallel", "model", "engine", "server", "proto"},
    "tests": {"base", "kernels", "parallel", "model", "engine", "server", "tools", "proto"},
}

# Wires the concrete classes together, so only the confinement of third-party headers holds for it.
COMPOSITION_ROOT = r"server/(main\.cc|rank_device\.(cc|h))"

# (what is included, who may include it, why). Both are full-match expressions over the path as written.
CONFINED = [
    (r"mpi\.h", r"parallel/mpi_.*|tests/parallel/mpi_.*", "MPI is one implementation of World and Communicator"),
    (r"nccl.*\.h", r"parallel/nccl_.*", "NCCL is one implementation of Communicator"),
    (r"(cuda|cublas|cutlass|nvml).*", r"kernels/cuda/.*|parallel/nccl_.*", "CUDA is one implementation of Device"),
    (r"grpc(pp)?/.*|grpc\.h", r"(server|tools|tests/server|tests/fuzz)/.*", "only the front end speaks gRPC"),
    (r"google/(protobuf|rpc)/.*|proto/.*|.*\.pb\.h", r"(server|tools|tests/server|tests/fuzz)/.*",
     "only the front end speaks protobuf"),
    (r"pcre2.*|utf8proc.*", r"model/.*", "text rules live with the tokenizer"),
    (r"nlohmann/.*", r"(base|model|server|tools|tests)/.*|parallel/plan_text.*", "JSON goes through base/json.h"),
    (r"(immintrin|x86intrin|amxintrin|xmmintrin|emmintrin)\.h", r"kernels/.*|base/thread_pool\..*|parallel/backoff\..*",
     "instruction sets are a matter of the kernels; spinning loops may pause"),
    (r"kernels/(cpu|cuda|reference)/.*", r"kernels/(cpu|cuda|reference)/.*|kernels/[a-z_]+\.cc|tests/(kernels|bench|emulation|gpu)/.*",
     "other folders use kernels/device.h and kernels/ops.h"),
    (r"parallel/(mpi|nccl)_.*", rf"parallel/.*|{COMPOSITION_ROOT}|tests/.*", "the composition root picks the concrete classes"),
    (r"parallel/(single|thread)_.*", rf"(parallel|tools|tests)/.*|{COMPOSITION_ROOT}",
     "the composition root picks the concrete classes"),
    # What the front end may see below the engine: text, shapes for its answers, and the plan it prints.
    (r"model/(?!tokenizer|detokenizer|chat_template|config|unicode).*", rf"(model|engine|tools|tests)/.*|{COMPOSITION_ROOT}",
     "the server sees text and the engine, not weights"),
    (r"parallel/(?!plan|topology).*", rf"(parallel|model|engine|tools|tests)/.*|{COMPOSITION_ROOT}",
     "the server sees a plan, not ranks"),
]

SOURCE_SUFFIXES = {".h", ".cc", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]', re.M)


def violations(root):
    """Yields one line per #include under `root` that breaks the table."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        folder = name.split("/")[0]
        if folder not in MAY_INCLUDE or path.suffix not in SOURCE_SUFFIXES or not path.is_file():
            continue
        for header in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
            yield from problems(name, folder, header)


def problems(name, folder, header):
    """Yields what is wrong with file `name` in `folder` including `header`."""
    other = header.split("/")[0]
    if other in {*MAY_INCLUDE, "proto"} and "/" in header:
        if other not in MAY_INCLUDE[folder] | {folder} and not re.fullmatch(COMPOSITION_ROOT, name):
            yield f"{name}: {folder}/ may not include {header}"
            return
    for pattern, homes, why in CONFINED:
        if re.fullmatch(pattern, header) and not re.fullmatch(homes, name):
            yield f"{name}: {header} belongs in {homes} ({why})"


PLANTED = {  # file: an include that must be found there
    "base/a.h": "kernels/tensor.h",
    "kernels/b.cc": "model/config.h",
    "kernels/c.h": "parallel/world.h",
    "parallel/plan.cc": "mpi.h",
    "parallel/d.cc": "engine/engine.h",
    "parallel/e.cc": "nlohmann/json.hpp",
    "model/f.cc": "proto/shoal/v1/inference.pb.h",
    "model/g.cc": "parallel/mpi_world.h",
    "model/h.cc": "kernels/cpu/linear_int8.h",
    "engine/i.cc": "grpcpp/grpcpp.h",
    "engine/j.h": "google/protobuf/message.h",
    "engine/k.cc": "server/config.h",
    "engine/l.cc": "pcre2.h",
    "server/m.cc": "kernels/device.h",
    "server/n.cc": "model/weights.h",
    "server/o.cc": "parallel/single_world.h",
    "server/p.cc": "parallel/communicator.h",
    "server/main.cc": "mpi.h",
    "tools/q.cc": "tests/support/x.h",
    "tools/r.cc": "parallel/mpi_world.h",
    "kernels/device.h": "cuda_runtime.h",
    "model/s.h": "immintrin.h",
}
CLEAN = {
    "base/a.cc": ["base/a.h", "nlohmann/json.hpp", "vector"],
    "kernels/cpu/a.cc": ["immintrin.h", "kernels/cpu/b.h", "base/check.h"],
    "parallel/mpi_world.cc": ["mpi.h", "parallel/world.h", "base/log.h"],
    "parallel/plan_text.cc": ["base/json.h", "nlohmann/json.hpp"],
    "model/tokenizer.cc": ["pcre2.h", "utf8proc.h", "base/json.h"],
    "engine/runner.cc": ["model/decoder.h", "parallel/world.h", "kernels/device.h"],
    "server/main.cc": ["parallel/mpi_world.h", "kernels/device.h", "model/weights.h", "server/config.h"],
    "server/service.cc": ["grpcpp/grpcpp.h", "proto/shoal/v1/inference.pb.h", "engine/engine.h", "model/tokenizer.h"],
    "tools/plan.cc": ["parallel/plan.h", "parallel/single_world.h", "server/config.h"],
}


def plant(root, files):
    """Writes a made-up tree of `files` (name to list of includes) under `root`."""
    for name, headers in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f'  #  include "{header}"\n' for header in headers), encoding="utf-8")


def check_itself():
    """Returns what this test misses or invents on made-up trees, as a list of lines."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        plant(root / "bad", {name: [header] for name, header in PLANTED.items()})
        found = list(violations(root / "bad"))
        for name, header in PLANTED.items():
            if not any(line.startswith(name + ":") and header in line for line in found):
                wrong.append(f"self-test: planted {name} including {header} was not found")
        plant(root / "good", CLEAN)
        wrong += [f"self-test: false alarm: {line}" for line in violations(root / "good")]
    return wrong


def main():
    wrong = check_itself()
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    files = sum(1 for folder in MAY_INCLUDE for path in (root / folder).rglob("*") if path.suffix in SOURCE_SUFFIXES)
    if files == 0:
        wrong.append(f"{root}: holds none of our folders")
    wrong += violations(root)
    print("\n".join(wrong) or f"layering ok: {files} files, {len(PLANTED)} planted violations found")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
