"""Steps of the engine in any order, by replicas that are late or repeat themselves, and losses.

After each, what was answered and all that Redis holds is compared with a model of the engine.
Some of what must be true is also said without the model, in ``Steps.remember``.
"""

import json
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from coredis import Redis
from engines import INSTALLED, servers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from gateway_queue.replicas.engine import BuriedError, Engine, EraOverError, TermOverError

pytestmark = pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")

BASE = "gq"

# Key without base: field, or id in a stream: value; streams have what their only field says.
Held = dict[str, dict[str, Any]]

# All that Redis holds. What is in a stream is JSON; an inbox that does not expire is left out.
HELD = """
local held = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local fields = {}
  if redis.call('TYPE', key).ok == 'hash' then
    local all = redis.call('HGETALL', key)
    for at = 1, #all, 2 do
      fields[all[at]] = all[at + 1]
    end
  else
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
      fields[entry[1]] = cjson.decode(entry[2][2])
    end
  end
  local name = string.sub(key, #ARGV[1] + 2)
  if string.find(name, '^to:') == nil or redis.call('PTTL', key) > 0 then
    held[name] = fields
  end
end
return cjson.encode(held)
"""

# How many eras, terms or commands ago somebody learnt what he thinks is true.
ages = st.sampled_from([*6 * [0], 1, 2, 3])
two_ages = st.tuples(ages, st.one_of(ages, st.just(-1)))  # of an era and of a term

# How far things get at once after a loss: to another era, and to a leader.
recoveries = st.sampled_from([2, 2, 2, 1, 0])

replicas = st.sampled_from(["one", "two"])
grants = st.sampled_from(["bot 1", "bot 1", "bot 2", "robot 1"])
BOTS = ("bot", "robot")
numbers = st.integers(1, 3)

# What becomes of an offer, each step by one who knows all. Chance alone hardly gets so far.
STORIES = [
    ("offer", "take", "void"),
    ("offer", "take", "withdraw"),
    ("offer", "take", "settle"),
    ("offer", "void", "take"),
    ("offer", "withdraw", "take"),
    ("withdraw", "offer", "take"),
]


@dataclass(frozen=True)
class Command:
    step: str
    era: str
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Wire:
    """Redis, as a test talks to it that is not asynchronous."""

    portal: BlockingPortal
    engine: Engine
    client: Redis[str]

    def ask(self, command: Command) -> Any:
        """What is answered, or the kind of the refusal."""
        step = partial(self.engine.step, command.step, command.era, **command.given)
        try:
            return self.portal.call(step)
        except (BuriedError, EraOverError, TermOverError) as refusal:
            return type(refusal)

    def held(self) -> Held:
        held = json.loads(str(self.portal.call(self.client.eval, HELD, [], [BASE])))
        # An empty table is a list in cjson.
        return {key: dict(fields) for key, fields in held.items()}

    def lose(self, key: str) -> None:
        self.portal.call(self.client.delete, [f"{BASE}:{key}"])

    def lose_all(self) -> None:
        self.portal.call(self.client.flushall)

    def move(self) -> None:
        """As if another process had the same state now."""
        self.portal.call(self.client.hset, f"{BASE}:state", {"run": "another"})


class Model:
    """The engine, as far as its caller and those who read from Redis can see it."""

    def __init__(self) -> None:
        self.held: Held = {}
        self.run = ""  # what the process is called, once that is known

    @property
    def era(self) -> str | None:
        """The era that lasts; None where whoever joins next begins another one."""
        state, offers = self.of("state"), self.of("offers")
        is_known = "run" in state and state["run"] == self.run
        return state["era"] if is_known and offers.get("era") == state["era"] else None

    def of(self, key: str) -> dict[str, Any]:
        return self.held.get(key, {})

    def put(self, key: str, **fields: object) -> None:
        if fields:
            self.held.setdefault(key, {}).update({name: str(fields[name]) for name in fields})

    def remove(self, key: str, field: str) -> None:
        """There are no empty hashes."""
        if self.of(key).pop(field, None) is not None and not self.held[key]:
            del self.held[key]

    def answer(self, command: Command, answer: Any, held: Held) -> Any:
        """What is to be answered; what cannot be foreseen is taken from what was."""
        given = command.given
        if command.step == "join":
            return self.join(given["replica"], answer, held)
        if self.are_lost(command):
            self.remove("state", "run")
        if command.era != self.era:
            return EraOverError
        term = int(self.of("state")["term"])
        if given.get("term", term) != term:
            return TermOverError
        match command.step:
            case "lead":
                return self.lead(given, answer)
            case "take":
                return self.take(given, held)
            case step:
                return getattr(self, step)(given)

    def are_lost(self, command: Command) -> bool:
        """Whether a step is the first to find that grants of this era are gone."""
        given = command.given
        if command.era != self.era or command.step not in {"lead", "take"}:
            return False
        granted = [bot for bot in BOTS if self.of("state").get(f"grants:{bot}") == self.era]
        lost = {b for b in granted if f"grants:{b}" not in self.held or b not in self.of("numbers")}
        if command.step == "lead":
            return bool(lost) and int(self.of("state")["term"]) == given["term"]
        return given["bot"] in lost and self.of("offers").get(given["offer"]) == "open"

    def join(self, replica: str, answer: Any, held: Held) -> Any:
        if self.era is None:
            self.run = held["state"]["run"]
            after, now = int(self.of("state").get("term", 0)) + 1, int(time.time())
            assert answer["term"] == after or after < answer["term"] <= now
            self.put("state", run=self.run, era=answer["era"], term=answer["term"], leader="")
            self.held["beats"] = {}
            self.held.pop("events", None)
            self.held["offers"] = {"era": answer["era"]}
        self.put("beats", **{replica: 0})
        state = self.of("state")
        kept = {"settings": state["settings"]} if "settings" in state else {}
        return {
            "era": self.era,
            "term": int(state["term"]),
            "leader": state["leader"],
            "events": int(state.get("events", 0)),
            "has_replicas": False,
            **kept,
        }

    def beat(self, given: Mapping[str, Any]) -> Any:
        beats = self.of("beats")
        if given["replica"] not in beats:
            return BuriedError
        self.put("beats", **{given["replica"]: int(beats[given["replica"]]) + 1})
        return {
            "term": int(self.of("state")["term"]),
            "leader": self.of("state")["leader"],
            "events": int(self.of("state").get("events", 0)),
            "beats": {name: int(count) for name, count in beats.items()},
        }

    def lead(self, given: Mapping[str, Any], answer: Any) -> Any:
        term, leader = given["term"] + 1, given["replica"]
        self.put("state", term=term, leader=leader, settings=given["settings"])
        self.held["offers"] = {"era": self.of("state")["era"]}
        self.tell({"event": {"what": "led", "term": term, "leader": leader}})
        assert abs(answer["time"] / 1000 - time.time()) < 60
        return {"term": term, "time": answer["time"]}

    def bury(self, given: Mapping[str, Any]) -> Any:
        self.remove("beats", given["replica"])
        self.held.pop(f"to:{self.era}:{given['replica']}", None)
        return {}

    def say(self, given: Mapping[str, Any]) -> Any:
        self.add(f"to:{self.era}:{given['to']}", "messages", given["entry"])
        return {}

    def tell(self, given: Mapping[str, Any]) -> Any:
        self.add("events", "events", given["event"])
        return {}

    def add(self, stream: str, count: str, what: Any) -> None:
        number = int(self.of("state").get(count, 0)) + 1
        self.put("state", **{count: number})
        what = json.loads(what) if isinstance(what, str) else what
        self.held.setdefault(stream, {})[f"{number}-0"] = what

    def void(self, given: Mapping[str, Any]) -> Any:
        found = self.of("offers").get(given["offer"])
        if found not in {None, "withdrawn"}:
            self.of(f"grants:{given['bot']}").pop(found, None)
            self.put("offers", **{given["offer"]: "withdrawn"})
            self.tell(given)
        return {}

    def take(self, given: Mapping[str, Any], held: Held) -> Any:
        if self.of("offers").get(given["offer"]) != "open":
            return {"no": "offer"}
        grants = f"grants:{given['bot']}"
        new = held.get(grants, {}).keys() - self.of(grants).keys()
        assert len(new) == 1
        (row,) = new
        assert abs(int(row.partition("-")[0]) / 1000 - time.time()) < 60
        self.held.setdefault(grants, {})[row] = json.loads(given["row"])
        self.put("offers", **{given["offer"]: row})
        self.put("numbers", **{given["bot"]: given["number"]})
        self.put("state", **{grants: self.era})
        return self.tell(given)

    def resign(self, given: Mapping[str, Any]) -> Any:
        self.put("state", leader="")
        return self.tell({"event": {"what": "resigned", "term": given["term"]}})

    def offer(self, given: Mapping[str, Any]) -> Any:
        if given["offer"] not in self.of("offers"):
            self.put("offers", **{given["offer"]: "open"})
            self.say(given)
        return {}

    def withdraw(self, given: Mapping[str, Any]) -> Any:
        if self.of("offers").get(given["offer"], "open") not in {"open", "withdrawn"}:
            return {"taken": True}
        self.put("offers", **{given["offer"]: "withdrawn"})
        return {"taken": False}

    def note(self, given: Mapping[str, Any]) -> Any:
        for key, fields in given["fields"].items():
            self.put(key, **fields)
        for key, gone in given["gone"].items():
            for field in gone:
                self.remove(key, field)
        for event in given["events"]:
            self.tell({"event": event})
        for offer in given["settled"]:
            self.remove("offers", offer)
        return {}


class Steps(RuleBasedStateMachine):
    """What replicas ask for, and what becomes of Redis meanwhile."""

    wire: ClassVar[Wire]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.sent: list[Command] = []
        self.eras: list[str] = []
        self.terms: list[int] = []
        self.withdrawn: set[tuple[str, str]] = set()  # eras and offers
        self.taken: set[tuple[str, str]] = set()
        self.wire.lose_all()
        self.go_on(2)

    def send(self, command: Command) -> None:
        before = deepcopy(self.model.held)
        answer, held = self.wire.ask(command), self.wire.held()
        assert answer == self.model.answer(command, answer, held)
        assert held == self.model.held
        if isinstance(answer, type) or "no" in answer:
            assert held == before or self.model.era is None
        else:
            self.remember(command, answer, before, held)
        self.sent.append(command)

    def remember(self, command: Command, answer: Any, before: Held, held: Held) -> None:
        era, given = command.era, command.given
        match command.step:
            case "join" if answer["era"] not in self.eras[-1:]:
                assert answer["era"] not in self.eras
                self.eras.append(answer["era"])
                self.terms.append(answer["term"])
            case "lead":
                assert answer["term"] == self.terms[-1] + 1
                self.terms.append(answer["term"])
            case "take":
                assert (era, given["offer"]) not in self.withdrawn | self.taken
                self.taken.add((era, given["offer"]))
            case "void" if given["offer"] in before["offers"]:
                self.withdrawn.add((era, given["offer"]))
                self.taken.discard((era, given["offer"]))
            case "withdraw":
                assert answer["taken"] == ((era, given["offer"]) in self.taken)
                if not answer["taken"]:
                    self.withdrawn.add((era, given["offer"]))
            case "note":
                settled = {(era, offer) for offer in given["settled"]}
                self.withdrawn -= settled
                self.taken -= settled
        if command.step != "join":
            assert era == self.eras[-1]
        told = sorted(int(event.partition("-")[0]) for event in held.get("events", {}))
        assert all(later == earlier + 1 for earlier, later in pairwise(told))
        if "events" in before and command.step != "join":
            assert held["events"].items() >= before["events"].items()

    def go_on(self, so_far: int) -> None:
        """A replica joins, and then leads, or does not get so far."""
        if so_far >= 1:
            self.send(Command("join", "", {"replica": "one"}))
        if so_far >= 2:
            self.order("lead", [0, 0], replica="one", settings="{}")

    def ask(self, step: str, age: int, **given: Any) -> None:
        """Have a step executed, by somebody who last heard of the era so many eras ago."""
        self.send(Command(step, ago(self.eras, age), given))

    def order(self, step: str, ages: Sequence[int], **given: Any) -> None:
        """As ``ask``, by one who knows the era and the term of so long ago."""
        self.ask(step, ages[0], term=self.term(ages), **given)

    def term(self, ages: Sequence[int]) -> int:
        """Below 0: Redis has forgotten it, or another one leads by now."""
        return self.terms[-1] + 1 if ages[1] < 0 else int(ago(self.terms, ages[1]))

    def offer_of(self, ages: Sequence[int], grant: str) -> str:
        return f"{self.term(ages)} {grant}"

    # What anybody may do

    @rule(replica=replicas)
    def join(self, replica: str) -> None:
        self.send(Command("join", "", {"replica": replica}))

    @rule(age=ages, replica=replicas)
    def beat(self, age: int, replica: str) -> None:
        self.ask("beat", age, replica=replica)

    @rule(ages=two_ages, replica=replicas, settings=st.sampled_from(["{}", '{"a": 1}']))
    def lead(self, ages: Sequence[int], replica: str, settings: str) -> None:
        self.order("lead", ages, replica=replica, settings=settings)

    @rule(age=ages, replica=replicas)
    def bury(self, age: int, replica: str) -> None:
        self.ask("bury", age, replica=replica)

    @rule(age=ages, replica=replicas, entry=numbers)
    def say(self, age: int, replica: str, entry: int) -> None:
        self.ask("say", age, to=replica, entry=str(entry))

    @rule(age=ages, event=numbers)
    def tell(self, age: int, event: int) -> None:
        self.ask("tell", age, event=str(event))

    @rule(ages=two_ages, grant=grants)
    def take(self, ages: Sequence[int], grant: str) -> None:
        bot, number = grant.split()
        about = {"bot": bot, "number": int(number), "row": f"[{number}]"}
        self.ask("take", ages[0], offer=self.offer_of(ages, grant), event='"taken"', **about)

    @rule(ages=two_ages, grant=grants)
    def void(self, ages: Sequence[int], grant: str) -> None:
        bot, _ = grant.split()
        offer = self.offer_of(ages, grant)
        self.ask("void", ages[0], bot=bot, offer=offer, event='"given_back"')

    # What only a leader may do

    @rule(ages=two_ages, replica=replicas)
    def resign(self, ages: Sequence[int], replica: str) -> None:
        self.order("resign", ages, replica=replica)

    @rule(ages=two_ages, grant=grants, replica=replicas)
    def offer(self, ages: Sequence[int], grant: str, replica: str) -> None:
        offer = self.offer_of(ages, grant)
        self.order("offer", ages, offer=offer, to=replica, entry='"offer"')

    @rule(ages=two_ages, grant=grants)
    def withdraw(self, ages: Sequence[int], grant: str) -> None:
        self.order("withdraw", ages, offer=self.offer_of(ages, grant))

    @rule(ages=two_ages, chosen=st.lists(grants, max_size=2))
    def settle(self, ages: Sequence[int], chosen: list[str]) -> None:
        settled = [self.offer_of(ages, grant) for grant in chosen]
        self.order("note", ages, fields={}, gone={}, events=[], settled=settled)

    @rule(
        ages=two_ages,
        noted=st.dictionaries(replicas, st.sampled_from(["1", "2"])),
        gone=st.lists(replicas, unique=True),
        events=st.lists(st.sampled_from(['"moved"', '"more"']), max_size=2),
    )
    def note(
        self, ages: Sequence[int], noted: dict[str, str], gone: list[str], events: list[str]
    ) -> None:
        given = {"fields": {"seats": noted}, "gone": {"seats": gone}, "events": events}
        self.order("note", ages, **given, settled=[])

    @rule(story=st.sampled_from(STORIES), grant=grants, replica=replicas)
    def go_through(self, story: Sequence[str], grant: str, replica: str) -> None:
        now = [0, 0]
        for step in story:
            match step:
                case "offer":
                    self.offer(now, grant, replica)
                case "settle":
                    self.settle(now, [grant])
                case _:
                    getattr(self, step)(now, grant)

    # What may happen to all of it

    @rule(age=st.integers(0, 9))
    def again(self, age: int) -> None:
        """A step is executed once more, late."""
        self.send(ago(self.sent, age))

    @rule(data=st.data(), so_far=recoveries)
    def lose(self, data: st.DataObject, so_far: int) -> None:
        """As by eviction."""
        key = data.draw(st.sampled_from(sorted(self.model.held) or [""]))
        self.wire.lose(key)
        self.model.held.pop(key, None)
        self.go_on(so_far)

    @precondition(lambda self: "state" in self.model.held)
    @rule(so_far=recoveries)
    def restart(self, so_far: int) -> None:
        """Redis does, and has kept all."""
        self.wire.move()
        self.model.put("state", run="another")
        self.go_on(so_far)

    @rule(so_far=recoveries)
    def flush(self, so_far: int) -> None:
        self.wire.lose_all()
        self.model.held = {}
        self.go_on(so_far)


def ago(known: Sequence[Any], age: int) -> Any:
    """What was last but so many; the first, if there were fewer."""
    return known[max(0, len(known) - 1 - age)]


@pytest.mark.parametrize("kind", INSTALLED)
def test_the_engine_does_what_its_model_does(kind: str, tmp_path: Path) -> None:
    with servers(tmp_path) as make, start_blocking_portal("trio") as portal:
        server = make(kind)
        portal.call(server.start)
        with (
            portal.wrap_async_context_manager(Engine.at(server.url, BASE)) as engine,
            portal.wrap_async_context_manager(server.client()) as client,
        ):
            Steps.wire = Wire(portal, engine, client)
            run_state_machine_as_test(
                Steps, settings=settings(max_examples=60, stateful_step_count=50)
            )
