"""Runs the end-to-end tests, one process per file. Usage: run_e2e.py [--build DIR] [--results DIR] [--seconds N] [NAME...]

NAME picks tests/e2e/NAME_test.py, or NAME.Class.test_method within it; without one all run. One JUnit report per file goes
to --results. A file that takes longer than FILE_SECONDS_MAX, or for which nothing is left of --seconds, fails.
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest
import uuid
import xml.etree.ElementTree as ElementTree

HERE = pathlib.Path(__file__).resolve().parent
FILE_SECONDS_MAX = 300


class Recorder(unittest.TextTestResult):
    """Keeps what happened to each test, with its time."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cases = []
        self._begin = 0.0

    def startTest(self, test):
        self._begin = time.monotonic()
        super().startTest(test)

    def _record(self, test, verdict, text=""):
        case = {"class": type(test).__name__, "name": getattr(test, "_testMethodName", str(test)),
                "seconds": time.monotonic() - self._begin if self._begin else 0.0, "verdict": verdict, "text": text}
        self.cases.append(case)

    def addSuccess(self, test):
        super().addSuccess(test)
        self._record(test, "passed")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._record(test, "failure", self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self._record(test, "failure", self.errors[-1][1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._record(test, "skipped", reason)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._record(test, "failure", f"{subtest}: {self._exc_info_to_string(err, test)}")


def clean(text):
    """Text that XML can hold."""
    return "".join(c for c in text if c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd")


def write_report(path, cases):
    """Writes `cases` in JUnit form."""
    suite = ElementTree.Element("testsuite", name=path.stem, tests=str(len(cases)))
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", classname=case["class"], name=case["name"],
                                         time=f"{case['seconds']:.3f}")
        if case["verdict"] != "passed":
            ElementTree.SubElement(element, case["verdict"], message=clean(case["text"])[-2000:])
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def run_one(name, results):
    """Runs one file, or one test of it, in this process; returns the exit status."""
    sys.path.insert(0, str(HERE))
    sys.path.insert(0, str(HERE.parents[1]))
    file_name, _, rest = name.partition(".")
    module = f"{file_name}_test"
    suite = unittest.defaultTestLoader.loadTestsFromName(f"{module}.{rest}" if rest else module)
    outcome = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Recorder).run(suite)
    # A class whose setUpClass failed has no case of its own, but an error.
    if results:
        write_report(pathlib.Path(results) / f"{file_name}.xml", outcome.cases)
    return 0 if outcome.wasSuccessful() and outcome.cases else 1


def kill_marked(mark):
    """Kills every process that has `mark` in its environment: mpirun and its ranks live in sessions of their own."""
    for _ in range(20):  # A process may have started another while we looked.
        found = False
        for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark.encode() in environ.read_bytes().split(b"\0"):
                    os.kill(int(environ.parent.name), signal.SIGKILL)
                    found = True
            except (OSError, ValueError):
                pass  # Gone, or not ours.
        if not found:
            return
        time.sleep(0.05)


def run_bounded(command, seconds):
    """Runs `command` for at most `seconds`; returns what went wrong with it, or ""."""
    if seconds <= 0:
        return "not started: the time for all tests is used up"
    mark = f"SHOAL_TEST_RUN={uuid.uuid4().hex}"
    child = subprocess.Popen(command, env={**os.environ, **dict([mark.split("=")])})
    try:
        status = child.wait(seconds)
        return f"the test program ended with {status}" if status else ""
    except subprocess.TimeoutExpired:
        return f"longer than {seconds:.0f} s"
    finally:
        # After a clean end nothing is left: tests/support/cluster.py has checked it.
        if child.poll() != 0:
            child.kill()
            kill_marked(mark)
            child.wait()


def add_failure(report, name, reason, seconds):
    """Makes `report` tell of a failure, where it is not there, is cut short or knows of none."""
    try:
        tree = ElementTree.parse(report)
        if tree.getroot().find("testcase/failure") is not None:
            return
        suite = tree.getroot()
    except (OSError, ElementTree.ParseError):
        write_report(report, [])
        tree = ElementTree.parse(report)
        suite = tree.getroot()
    case = ElementTree.SubElement(suite, "testcase", classname=name, name="all", time=f"{seconds:.3f}")
    ElementTree.SubElement(case, "failure", message=reason)
    tree.write(report, encoding="utf-8", xml_declaration=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--build", default=str(HERE.parents[1] / "build"))
    parser.add_argument("--results")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all files together")
    parser.add_argument("--one", action="store_true", help="run in this process (used by the runner itself)")
    args = parser.parse_args()
    os.environ["SHOAL_BUILD_DIR"] = os.path.abspath(args.build)
    if args.one:
        return run_one(args.names[0], args.results)
    names = args.names or sorted(path.name[:-len("_test.py")] for path in HERE.glob("*_test.py"))
    end = time.monotonic() + args.seconds
    failed = []
    for name in names:
        begin = time.monotonic()
        print(f"-- {name}", flush=True)
        report = pathlib.Path(args.results) / f"{name.partition('.')[0]}.xml" if args.results else None
        if report:
            report.unlink(missing_ok=True)
        command = [sys.executable, "-u", __file__, "--one", "--build", args.build, name]
        if report:
            command += ["--results", args.results]
        reason = run_bounded(command, min(FILE_SECONDS_MAX, end - begin))
        if reason:
            failed.append(name)
            if report:
                add_failure(report, name, reason, time.monotonic() - begin)
        print(f"-- {name}: {'FAILED: ' + reason if reason else 'ok'} in {time.monotonic() - begin:.1f} s", flush=True)
    if failed:
        print(f"end-to-end files that failed: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
