"""A custom policy, and why a task has its score."""

from celery_dynprio import Age, Context, Deadline, FairShare, PendingTask, Runtimes, ShortestFirst, Weight

policy = 4 * Deadline(horizon=60) + 2 * Weight() + 3 * FairShare() + 1 * Age(saturation=300)
policy += 2 * ShortestFirst(scale=30)

now = 1_000_000.0
runtimes = Runtimes({"checkout": 3.0, "report": 60.0})
context = Context(now, runtimes, use={"megacorp": 900.0, "tenant 1": 100.0})
checkout = PendingTask("id-1", "checkout", published=now - 10, weight=9, deadline=now + 18, key="tenant 1")
report = PendingTask("id-2", "report", published=now - 300, key="megacorp")

assert policy.score(checkout, context) > policy.score(report, context)
for line in policy.explain(checkout, context):
    print(f"{line.factor:14} {line.value:.2f} * {line.weight:g} adds {line.contribution:.3f}")
