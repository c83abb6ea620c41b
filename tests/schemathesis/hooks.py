"""What the OpenAPI document cannot say of a valid request, for schemathesis."""

import itertools
import os

import schemathesis

# Longest that a request waits: a paused machine ends no operation, and a valid wait may be an hour.
LONGEST_WAIT = 0.5
# A machine may have seen an earlier run, and its keys.
RUN = os.getpid()

numbers = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # A key that was used for something else is refused (422, `key_reused`), however valid it is.
    if case.headers and "Idempotency-Key" in case.headers:
        key = case.headers["Idempotency-Key"]
        case.headers["Idempotency-Key"] = f"{key[:200]}-{RUN}-{next(numbers)}"
    # An id that no event has yet is refused; which those are changes all the time.
    for place, name in ((case.headers, "Last-Event-ID"), (case.query, "last_event_id")):
        if place and name in place:
            place[name] = "0"
    if case.query and "wait" in case.query:
        case.query["wait"] = min(float(case.query["wait"]), LONGEST_WAIT)
