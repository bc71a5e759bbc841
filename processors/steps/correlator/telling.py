"""Groups of signals become incidents: when they open, grow, split, merge and end.

A story follows its first cause. A group that holds the first cause of an open story goes on with it; what has parted from
it is a story of its own that names the one it split from. Of several stories in one group the oldest goes on and the
others are resolved with a pointer to it. News is told at once when the first cause changes or the severity rises, and
otherwise at most every so often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from processors.episodes import signal_id
from processors.step import Findings
from processors.steps.correlator import quiet
from processors.steps.correlator.config import Config
from processors.steps.correlator.saying import RECOVERING, Assessment, Group, assess, compose
from processors.steps.correlator.state import Node, State, Story
from processors.steps.correlator.tables import FELT, Urgency
from schemas.records import Evidence, Incident, Phase

KINDS_THAT_AGREE = 3


def look(config: Config, state: State, found: list[Group], at_ms: int) -> Findings:
    """Tell what has changed since the last look."""
    claims = _claims(state, found)
    common = (quiet.resting(config, at_ms), tuple(state.nodes[cause].revision for cause in sorted(state.deeds)))
    before = {cause: identity for identity, story in sorted(state.stories.items()) for cause in story.members}
    told: Findings = []
    for number, members in enumerate(found):
        stories = claims.get(number, [])
        if not _is_touched(state, members, stories, common):
            continue
        if stories:
            told += _go_on(config, state, members, stories, at_ms)
        else:
            told += _open(config, state, members, before, at_ms)
    return told


def end(config: Config, state: State, at_ms: int) -> Findings:
    """End the stories of which nothing goes on; one that flaps waits until it has calmed down."""
    found: Findings = []
    for identity, story in sorted(state.stories.items()):
        nodes = [state.nodes[cause] for cause in story.members if cause in state.nodes]
        if any(_goes_on(config, node, at_ms) for node in nodes):
            continue
        if nodes and all(node.cause in state.muted for node in nodes):
            continue  # in maintenance nothing is told, not even the end
        quiet.turn(config, story, at_ms, is_on=False)
        if quiet.flaps(config, story, at_ms):
            found += _flapping(config, story, at_ms)
            continue
        del state.stories[identity]
        story.incident = _resolved(state, story, at_ms)
        state.closed[story.incident.causes[0].cause] = story
        found.append(story.incident)
    return found


def next_ms(config: Config, state: State, found: Iterable[Group], at_ms: int) -> list[int]:
    """When time alone may make something worth telling."""
    times: list[int] = []
    in_story = {cause for story in state.stories.values() for cause in story.members}
    for members in found:
        live = [node.first_ms for node in members if node.over_ms is None]
        if live and not any(node.cause in in_story for node in members):
            first = min(live)
            waits = (config.settle_ms, config.gather_ms, config.patience_ms)
            times += [first + wait for wait in waits if first + wait > at_ms]
    times += [
        node.over_ms + config.quiet_ms
        for node in state.nodes.values()
        if node.over_ms is not None and node.over_ms + config.quiet_ms > at_ms
    ]
    for story in state.stories.values():
        times += [
            due_ms - config.forecast_warns_ms
            for cause in story.members
            if cause in state.nodes
            and (due_ms := state.nodes[cause].due_ms)
            and due_ms - config.forecast_warns_ms > at_ms
        ]
        if story.has_news:
            times.append(story.incident.time_ms + config.tell_every_ms)
        if not story.is_on or story.incident.flapping:
            times.append(at_ms + config.flap_slot_ms)
    return times


def _claims(state: State, found: Sequence[Group]) -> dict[int, list[Story]]:
    """Which open stories each group goes on with: the group of a story's first cause, else the one with most of it."""
    group_of = {node.cause: number for number, members in enumerate(found) for node in members}
    claims: dict[int, list[Story]] = {}
    for _, story in sorted(state.stories.items(), key=lambda one: (one[1].incident.started_ms, one[0])):
        first = story.incident.causes[0].cause
        numbers = [group_of[cause] for cause in story.members if cause in group_of]
        if first not in group_of and first in state.deeds:
            followers = [
                cause for cause, parent in sorted(state.parents.items()) if parent == first and cause in group_of
            ]
            numbers = [group_of[cause] for cause in followers if cause in story.members] or numbers
        if numbers:
            most = max(numbers, key=lambda one: (numbers.count(one), -one))
            claims.setdefault(group_of.get(first, most), []).append(story)
    return claims


def _is_touched(state: State, members: Group, stories: Sequence[Story], common: object) -> bool:
    """Whether anything of the group is not as it was at the last look, or time alone may have changed something."""
    stamp = (
        [(node.cause, node.revision, state.parents.get(node.cause)) for node in members],
        [story.incident.id for story in stories],
        common,
    )
    key = members[0].cause
    is_same, state.looked_at[key] = state.looked_at.get(key) == stamp, stamp
    in_time = not stories or any(one.has_news or not one.is_on or one.incident.flapping for one in stories)
    return in_time or not is_same or any(node.due_ms is not None for node in members)


def _go_on(config: Config, state: State, members: Group, stories: list[Story], at_ms: int) -> Findings:
    """Tell of a story what is news; others that turned out to be the same one are absorbed."""
    story, *others = stories
    absorbed = [_absorbed(state, other, story, at_ms) for other in others]
    for other in others:
        story.members = sorted({*story.members, *other.members})
        # Who heard of one of them hears how it goes on.
        called = (*story.incident.roles, *other.incident.roles)
        story.incident = story.incident.model_copy(update={"roles": called})
    if any(node.over_ms is None for node in members):
        quiet.turn(config, story, at_ms, is_on=True)
    story.members = _members(state, members, story)
    view = assess(config, state, members, at_ms, story.incident)
    if not absorbed and not story.incident.flapping and not _is_news(config, story, view, at_ms):
        return []
    if story.incident.flapping and not absorbed:
        return _flapping(config, story, at_ms, lambda: compose(config, state, view, at_ms, story.incident))
    after = compose(config, state, view, at_ms, story.incident)
    ids = (*after.absorbed, *(one.id for one in absorbed))
    update = {"version": after.version + 1, "phase": Phase.UPDATED, "absorbed": ids[-100:]}
    story.incident, story.has_news = after.model_copy(update=update), False
    return [*absorbed, story.incident]


def _members(state: State, members: Group, story: Story) -> list[str]:
    """Those of the group, and what of the story has ended meanwhile; what belongs to another story now is left to it."""
    others = {cause for one in state.stories.values() if one is not story for cause in one.members}
    ended = (cause for cause in story.members if cause not in others and _is_over(state, cause))
    return sorted({*(node.cause for node in members), *ended})


def _is_over(state: State, cause: str) -> bool:
    node = state.nodes.get(cause)
    return node is not None and node.over_ms is not None


def _open(config: Config, state: State, members: Group, before: Mapping[str, str], at_ms: int) -> Findings:
    """Tell a story for the first time. `before` says which story a cause was part of at the last look."""
    live = [node for node in members if node.over_ms is None]
    came_from = next((before[node.cause] for node in live if node.cause in before), None)
    # What was told as part of another story, and turned out to be one of its own, has waited.
    if not (live and came_from) and not _worth_telling(config, state, live, at_ms):
        return []
    view = assess(config, state, members, at_ms, None)
    if known := _earlier(config, state, view.ranked.first.cause, live, at_ms):
        return _reopen(config, state, members, state.closed.pop(known), at_ms)
    composed = compose(config, state, view, at_ms, None)
    incident = composed.model_copy(update={"split_from": came_from, "id": _id_of_its_own(state, composed, at_ms)})
    mine = {node.cause for node in members}
    for other in state.stories.values():
        if not mine.isdisjoint(other.members):
            other.members = [cause for cause in other.members if cause not in mine]
    story = Story(incident=incident, members=[node.cause for node in members])
    quiet.turn(config, story, at_ms, is_on=True)
    state.stories[incident.id] = story
    return [incident]


def _id_of_its_own(state: State, incident: Incident, at_ms: int) -> str:
    """The incident's id, another one where a story is known by it.

    That story has begun with the same first cause, which it has split off since: its readers would take one for the other.
    """
    others = (*state.stories.values(), *state.closed.values())
    if all(story.incident.id != incident.id for story in others):
        return incident.id
    return signal_id(incident.cell, "incident", incident.causes[0].cause, incident.started_ms, at_ms)


def _earlier(config: Config, state: State, first: str, live: Group, at_ms: int) -> str | None:
    """The closed story that comes back: of the same first cause, else the last one that all of this was part of, this cause too."""
    causes = {node.cause for node in live}
    back_ms = min((node.first_ms for node in live), default=at_ms)
    recent = (one for one, story in state.closed.items() if back_ms - story.incident.time_ms <= config.reopen_ms)
    mine = [one for one in recent if one == first or causes | {first} <= set(state.closed[one].members)]
    return max(mine, key=lambda one: (one == first, state.closed[one].incident.time_ms, one), default=None)


def _reopen(config: Config, state: State, members: Group, story: Story, at_ms: int) -> Findings:
    """The same incident again. When it flaps by now, it stays open until it has calmed down."""
    quiet.turn(config, story, at_ms, is_on=True)
    view = assess(config, state, members, at_ms, story.incident)
    after = compose(config, state, view, at_ms, story.incident)
    version = story.incident.version + 1
    story.incident = after.model_copy(update={"version": version, "phase": Phase.OPEN})
    story.members, story.has_news = [node.cause for node in members], False
    state.stories[after.id] = story
    return [story.incident]


def _absorbed(state: State, other: Story, story: Story, at_ms: int) -> Incident:
    last = other.incident
    del state.stories[last.id]
    return last.model_copy(
        update={
            "phase": Phase.RESOLVED,
            "time_ms": at_ms,
            "version": last.version + 1,
            "merged_into": story.incident.id,
        }
    )


def _flapping(config: Config, story: Story, at_ms: int, now: Callable[[], Incident] | None = None) -> Findings:
    """Told that it flaps, and then only now and then."""
    last, starts = story.incident, not story.incident.flapping
    if not starts and not quiet.flaps(config, story, at_ms):
        story.incident, story.has_news = last.model_copy(update={"flapping": False}), True
        return []
    if not starts and (at_ms - last.time_ms < config.flap_tell_ms or story.turns[-1] <= last.time_ms):
        return []
    text = f"it came and went {len(story.turns)} times in {quiet.SLOTS * config.flap_slot_ms // 60_000} minutes"
    after = now() if now else last
    first = after.causes[0]
    note = Evidence(text=text, value=float(len(story.turns)), time_ms=at_ms)
    causes = (
        first.model_copy(update={"evidence": (note, *_unlike(first.evidence, "it came and went"))[:20]}),
        *after.causes[1:],
    )
    update = {"causes": causes, "phase": Phase.UPDATED, "version": last.version + 1, "time_ms": at_ms, "flapping": True}
    story.incident = after.model_copy(update=update)
    return [story.incident]


def _unlike(found: Iterable[Evidence], start: str) -> list[Evidence]:
    return [one for one in found if not one.text.startswith(start)]


def _resolved(state: State, story: Story, at_ms: int) -> Incident:
    """The last telling: as it was, and whether the rollback of its first cause was its end."""
    last = story.incident
    update = {
        "phase": Phase.RESOLVED,
        "time_ms": at_ms,
        "version": last.version + 1,
        "flapping": False,
        "recovery": None,
        "title": last.title.removeprefix(RECOVERING),
    }
    deed = state.deeds.get(last.causes[0].cause)
    if deed and deed.undone_ms is not None:
        text = (
            f"it was taken back, and all that it had brought about ended within {(at_ms - deed.undone_ms) / 1000:.0f} s"
        )
        first = last.causes[0]
        proof = Evidence(text=text, time_ms=deed.undone_ms)
        update["causes"] = (first.model_copy(update={"evidence": (*first.evidence[:19], proof)}), *last.causes[1:])
    return last.model_copy(update=update)


def _goes_on(config: Config, node: Node, at_ms: int) -> bool:
    return node.is_member and (node.over_ms is None or node.over_ms > at_ms - config.quiet_ms)


def _worth_telling(config: Config, state: State, live: Group, at_ms: int) -> bool:
    """A root at once, a finding or what several kinds agree upon after a while, a symptom only when it lasts."""
    if not live:
        return False
    age_ms = at_ms - min(node.first_ms for node in live)
    if age_ms < config.settle_ms:
        return False
    if any(node.known.urgency is Urgency.ROOT for node in live) or age_ms >= config.patience_ms:
        return True
    changed = sum(1 for node in live if state.parents.get(node.cause) in state.deeds)
    if changed > 1:
        return True
    if age_ms < config.gather_ms:
        return False
    kinds = {node.kind for node in live}
    agree = len(kinds) >= KINDS_THAT_AGREE and not kinds <= set(FELT)
    return agree or any(node.known.urgency is Urgency.FINDING for node in live)


def _is_news(config: Config, story: Story, now: Assessment, at_ms: int) -> bool:
    before = story.incident
    if before.causes[0].cause != now.ranked.first.cause or now.severity > before.severity:
        return True
    grown = now.impact.documents > 1.2 * before.impact.documents
    joined = {one.signal.id for node in now.members for one in node.kept}.difference(before.signals)
    lesser = grown or bool(joined) or set(now.tenants) != set(before.tenants) or now.roles != before.roles
    lesser = lesser or _recovers_otherwise(before, now, at_ms)
    story.has_news = lesser and at_ms - before.time_ms < config.tell_every_ms
    return lesser and not story.has_news


def _recovers_otherwise(before: Incident, now: Assessment, at_ms: int) -> bool:
    """It recovers, or no longer does, or takes longer than was said. When nothing is left, its end is told soon."""
    if all(node.over_ms is not None for node in now.members):
        return False
    if before.recovery is None or now.recovery is None:
        return before.recovery is not now.recovery
    return at_ms > before.recovery.until_ms
