#!/usr/bin/env python3
"""Counts single test cases in meson's testlog.json, and shows what failed.

A test program is cmocka's, Python's unittest, or one that only has an exit status (one case). A
program that crashes, times out or exits with a failure counts as a failed case even if all the cases
that it reported had passed. What a program says was "not tried here" is repeated. Exit status 0 only
where something ran and nothing failed.
"""
import json
import re
import sys

RUN = re.compile(r"^\[ RUN      \] (.+)$", re.M)
OK = re.compile(r"^\[       OK \] (.+)$", re.M)
UNITTEST = re.compile(r"^Ran (\d+) tests? in ", re.M)
UNITTEST_BAD = re.compile(r"\b(?:failures|errors|unexpected successes|skipped)=(\d+)")


def cases(text, good):
    """(passed, failed) of one program."""
    names = RUN.findall(text)
    if names:
        passed = min(len(OK.findall(text)), len(names))
        failed = len(names) - passed
    elif UNITTEST.search(text):
        ran = sum(int(n) for n in UNITTEST.findall(text))
        failed = min(ran, sum(int(n) for n in UNITTEST_BAD.findall(text)))
        passed = ran - failed
    else:
        passed, failed = (1, 0) if good else (0, 1)
    if not good and not failed:
        failed = 1
    return passed, failed


def show(test, text):
    print(f"\n--- {test['name']}: {test['result']}, exit status {test['returncode']}")
    for line in text.splitlines():
        if not line.startswith(("[ RUN ", "[       OK ", "[==========]", "[  PASSED ")):
            print("    " + line)


def main():
    passed = failed = 0
    try:
        with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
            tests = [json.loads(line) for line in log]
    except OSError as error:
        print(f"no tests ran: {error}")
        tests = []
    for test in tests:
        text = (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")
        ok, bad = cases(text, test["result"] == "OK")
        passed += ok
        failed += bad
        if bad:
            show(test, text)
        for line in text.splitlines():
            if "not tried here" in line:
                print(f"  {line}")
    if passed + failed == 0:
        failed = 1
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


sys.exit(main())
