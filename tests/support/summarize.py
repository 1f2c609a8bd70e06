"""Adds up the results of a test run. Usage: summarize.py RESULTS_DIR...

A results directory (BUILD/test-results) holds
  unit/*.xml   one report per GoogleTest program, in JUnit form
  unit.ctest   what `ctest --output-junit` wrote, one entry per program; an entry that has a unit/NAME.xml is counted
               there, test by test, unless the program ended badly without a failed test to show for it
  e2e/*.xml    one report per end-to-end file
  *.result     one line `passed NAME` or `failed NAME` per check that has no such report (fuzz targets, builds)
Prints every failed and skipped test, then `N passed, N failed` (and `, N skipped`). Exit status 1 if any failed or none ran.
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


class Totals:
    """Counts, and the names of what did not pass."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []


def add_junit(path, label, totals):
    """Adds the cases of a JUnit file; returns how many of them failed."""
    failed_before = len(totals.failed)
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        totals.failed.append(f"{label}{path}: cut short ({error})")
        return 1
    for case in root.iter("testcase"):
        name = f"{label}{path.stem} {case.get('classname', '')}.{case.get('name', '')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            totals.failed.append(name)
        elif skipped is not None or case.get("status") in ("notrun", "disabled") or case.get("result") == "skipped":
            reason = "" if skipped is None else (skipped.get("message") or "").strip().split("\n")[-1]
            totals.skipped.append(f"{name}: {reason}")
        else:
            totals.passed += 1
    return len(totals.failed) - failed_before


def add_ctest(path, label, failures_of, totals):
    """Adds CTest entries that have no report of their own, and programs that died without one."""
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except ElementTree.ParseError as error:
        totals.failed.append(f"{label}{path}: cut short ({error})")
        return
    if not cases:
        totals.failed.append(f"{label}{path}: no program ran")
    for case in cases:
        name = case.get("name")
        failed = case.get("status") != "run" or case.find("failure") is not None
        if failed and failures_of.get(name, 0) == 0:
            totals.failed.append(f"{label}{name}: the program failed or did not run")
        elif not failed and name not in failures_of:
            totals.passed += 1


def main():
    totals = Totals()
    for results in map(pathlib.Path, sys.argv[1:]):
        label = results.parent.name + ": "
        failures_of = {path.stem: add_junit(path, label, totals) for path in sorted((results / "unit").glob("*.xml"))}
        if (results / "unit.ctest").exists():
            add_ctest(results / "unit.ctest", label, failures_of, totals)
        for path in sorted((results / "e2e").glob("*.xml")):
            add_junit(path, label, totals)
        for path in sorted(results.glob("*.result")):
            for line in path.read_text().splitlines():
                verdict, _, name = line.partition(" ")
                if verdict == "passed":
                    totals.passed += 1
                else:
                    totals.failed.append(label + name)
    for name in totals.skipped:
        print(f"SKIPPED {name}")
    for name in totals.failed:
        print(f"FAILED  {name}")
    if totals.passed == 0 and not totals.failed:
        totals.failed.append("no test ran")
        print("FAILED  no test ran")
    skipped = f", {len(totals.skipped)} skipped" if totals.skipped else ""
    print(f"{totals.passed} passed, {len(totals.failed)} failed{skipped}")
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
