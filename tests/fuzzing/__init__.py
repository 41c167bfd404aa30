"""Coverage-guided fuzzing of what takes bytes or foreign text: all that is pure in `reactor` and `protocols`, and TLS.

    python -m pip install -e '.[test,fuzz]'  # atheris, which drives libFuzzer, and what the tests need
    python -m tests.fuzzing                  # every target for a minute, one after another
    python -m tests.fuzzing frames handshake --seconds 600 --jobs 2

For each target it prints how often it ran, how many edges of the code it reached, and what it found. What a
target does is said in `targets`; ``--help`` lists them all.

**When it finds something**, the input lies in ``findings/TARGET``. This runs it again, without atheris, and shows
where it fails:

    python -m tests.fuzzing frames --replay tests/fuzzing/findings/frames/crash-...

Find the cause, write a test of it with a name into ``test_findings.py``, and repair the code.

**The corpus.** The inputs that reached something new are kept in ``found/TARGET``, and the next run goes on from
there; neither directory is part of the repository. A small selection is: ``corpus/TARGET``, which the test suite
runs through every target, together with the conversations in `seeds`. This makes the selection anew:

    python -m tests.fuzzing --minimize

**How to add to it.** A target is a function of bytes in `targets`, with a line in its table, a seed or two, and a
planted defect in ``test_fuzzing.py`` which shows that it can fail.
"""
