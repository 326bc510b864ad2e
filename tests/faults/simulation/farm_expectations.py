"""What must be true of any history of a farm: an independent witness of what people were told, of the
events in their order, and of who recorded them. It uses neither the fold nor the machine. `Broken` says which
promise does not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from expectations import ENDED, PLACED, expect
from simulated_farm import Farm
from simulated_member import Member
from simulated_parts import Attempt

from dcd.engine.workspaces import kept_workspace
from dcd.farm.placing import lacking
from statemachine.build import BuildState, Lifecycle
from statemachine.events import Event
from statemachine.machine import BuildMachine
from store.eventlog.postgresql.members import role_of
from store.eventlog.postgresql.schema import FACTS

BECOMES = {
    "BuildStarted": "running",
    "BuildPaused": "paused",
    "BuildFailed": "failed",
    "CancelRequested": "cancelling",
    "BuildCancelled": "cancelled",
    "BuildCompleted": "completed",
}


@dataclass
class Build:
    """What is known of a build. `owner` and `epoch` are those of its last taking; `open` is the attempt that
    runs: its checkpoint, its number, and the host. `moves_to` is the goal of a move since then ("": any other
    member), None without one, and `began` the checkpoints that its owner has begun since then."""

    id: str
    names: tuple[str, ...]
    state: str = "queued"
    owner: str = ""
    epoch: int = 0
    open: tuple[str, int, str] | None = None
    results: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    moves_to: str | None = None
    began: int = 0


class FarmExpectations:
    """The witness of one farm."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.builds: dict[str, Build] = {}
        self.position = 0
        farm.began = self.began

    @property
    def living(self) -> Sequence[Build]:
        return [build for build in self.builds.values() if build.state not in ENDED]

    def acknowledged(self, state: BuildState) -> None:
        """The answer to a command came."""
        self.observe()
        build = self.builds.get(state.id)
        expect(build, "an acknowledged submit is in the log", state.id)
        assert build is not None
        there = build.hashes[state.sequence - 1 : state.sequence]
        expect(there == [state.hash], "what was acknowledged is in the log", state.id)

    def observe(self) -> None:
        """Read what is new in the log."""
        for event in self.farm.database.events[self.position :]:
            self.position += 1
            expect(event.position == self.position, "positions have no gaps", event)
            if event.type == "BuildSubmitted":
                expect(event.build not in self.builds, "a build is submitted once", event)
                names = tuple(each.name for each in event.data.plan.checkpoints)  # type: ignore[attr-defined]
                self.builds[event.build] = Build(event.build, names)
            build = self.builds[event.build]
            build.hashes.append(event.hash)
            expect(event.sequence == len(build.hashes), "sequences have no gaps", event)
            self._check_writer(build, event)
            self._fold(build, event)

    def _check_writer(self, build: Build, event: Event) -> None:
        role, epoch = self.farm.database.epochs[event.position - 1]
        host = role.removeprefix("dcd-")
        if event.type in FACTS and event.type != "BuildPlaced":
            expect(
                (host, epoch) == (build.owner, build.epoch),
                "only the owner of a build records facts, in its epoch",
                *(event, host, epoch, build),
            )

    def _fold(self, build: Build, event: Event) -> None:
        data: object = event.data
        match event.type:
            case "BuildPlaced":
                self._take(build, event.data.host, event.data.epoch)  # type: ignore[attr-defined]
            case "CheckpointStarted" | "CheckpointReused":
                name = event.data.checkpoint  # type: ignore[attr-defined]
                done = len(build.results)
                expect(
                    build.open is None and build.names[done : done + 1] == (name,),
                    "checkpoints run in order, and complete once",
                    *(event, build),
                )
                if event.type == "CheckpointReused":
                    build.results.append(name)
                else:
                    build.open = (name, data.attempt, build.owner)  # type: ignore[attr-defined]
                    build.began += 1
                    expect(
                        build.moves_to is None or build.began < 2,
                        "a build that is to move leaves after its running checkpoint",
                        *(event, build),
                    )
            case "MoveRequested":
                build.moves_to, build.began = data.to, 0  # type: ignore[attr-defined]
            case "CheckpointCompleted":
                name, number = data.checkpoint, data.attempt  # type: ignore[attr-defined]
                expect(
                    build.open == (name, number, build.owner),
                    "a checkpoint completes where it was started",
                    *(event, build),
                )
                build.results.append(name)
                build.open = None
            case "CheckpointFailed" | "CheckpointInterrupted":
                named = (data.checkpoint, data.attempt)  # type: ignore[attr-defined]
                expect(build.open and build.open[:2] == named, "it ran", event, build)
                build.open = None
            case "BuildRewound":
                first = build.results.index(data.checkpoint)  # type: ignore[attr-defined]
                del build.results[first:]
            case "PauseRequested" if data.before is None:  # type: ignore[attr-defined]
                build.state = "pausing"
            case "PauseWithdrawn" if build.state == "pausing":
                build.state = "running"
            case "BuildResumed":
                build.state = "running" if build.state == "pausing" else "queued"
            case "BuildCompleted":
                expect(build.results == list(build.names), "all has completed", event, build)
        build.state = BECOMES.get(event.type, build.state)

    def _take(self, build: Build, host: str, epoch: int) -> None:
        expect(epoch == build.epoch + 1, "epochs only grow, by one", build, host, epoch)
        if build.state in PLACED and build.owner not in ("", host):
            owner = self.farm.members[build.owner]
            well = owner.is_well and self.farm.seconds - owner.well_since > self.farm.lost_seconds
            drives = owner.engine is not None and build.id in owner.scheduler.driving
            expect(
                not (well and drives),
                "no build is taken from a member that lives and drives it",
                *(build, host, self.farm.seconds, owner.well_since),
            )
        if build.moves_to is not None:
            expect(
                not (
                    self._is_sure(host) and any(self._is_sure(goal) for goal in self._goals(build))
                )
                or host in self._goals(build),
                "a build that is to move arrives at its goal",
                *(build, host, self.farm.seconds),
            )
        build.owner, build.epoch, build.moves_to = host, epoch, None

    def _goals(self, build: Build) -> list[str]:
        """The members that are to take a build: those that have its labels, and of them those to which it is
        to move."""
        placed, rows = self.farm.database.builds[build.id].owner, self.farm.database.members
        hosts = [row.host for row in rows.values() if not lacking(row, placed.requires)]
        if build.moves_to is None:
            return hosts
        away = [host for host in hosts if host != build.owner]
        return away if build.moves_to == "" else [host for host in hosts if host == build.moves_to]

    def _is_sure(self, host: str) -> bool:
        """Whether a member has been there for so long that all others know it, and takes builds."""
        member, row = self.farm.members[host], self.farm.database.members[role_of(host)]
        since = self.farm.seconds - self.farm.lost_seconds
        return (
            member.is_well
            and bool(member.life)  # it has started, and does not stop
            and max(member.well_since, row.drained_at) < since
            and not row.draining
        )

    def began(self, member: Member, attempt: Attempt) -> None:
        """A worker was started."""
        self.observe()
        name, checkpoint, number = attempt.number
        build = self.builds[name]
        if build.owner == member.host:
            expect(
                build.open == (checkpoint, number, member.host),
                "an attempt is announced before it has any effect",
                *(attempt.number, build),
            )
            lines = attempt.history.read_text().splitlines()[:-1]
            expect(
                [line.split()[0] for line in lines] == build.results,
                "a workspace is the layer before it, wherever that was made",
                *(attempt.number, lines, build),
            )

    # What is true when all is well again

    def check_at_rest(self) -> None:
        """Every living member is well, has read the queue, and waits only for workers and people."""
        self.observe()
        members = [each for each in self.farm.members.values() if each.engine is not None]
        for build in self.living:
            if build.state in ("paused", "failed"):
                continue
            at_work = [host for host, attempt in self._running() if attempt.number[0] == build.id]
            if at_work:
                expect(at_work == [build.owner], "its owner works on a build", build, at_work)
                continue
            if any(build.id in member.scheduler.driving for member in members):
                continue  # it waits for a layer that another build makes
            requires = self.farm.database.builds[build.id].owner.requires
            goals = self._goals(build)
            able = [each for each in members if each.host in goals]
            full = all(not each.scheduler.room or self._is_full(each) for each in able)
            # That its member is lost is no reason, while another one could take it.
            state = replace(self._state(build), lifecycle=Lifecycle.QUEUED)
            asked = members[0].hosts.why_waits(state) if members else "no member lives"
            expect(full or asked, "a build waits only with a stated reason", build, requires)
        for member in members:
            self._check_host(member)

    def _is_full(self, member: Member) -> bool:
        return len(member.scheduler.driving) >= member.settings.max_running_builds

    def _running(self) -> list[tuple[str, Attempt]]:
        return [(member.host, attempt) for member, attempt in self.farm.attempts]

    def _check_host(self, member: Member) -> None:
        work = member.state_dir / "layers" / "copy" / ".work"
        found = {path.name for path in work.iterdir()}
        running = {attempt.order.workspace for attempt in member.attempts}
        states = [self._state(build) for build in self.living]
        kept = {kept_workspace(state) for state in states if state.host == member.host}
        expect(found - running <= kept, "nothing of an attempt is left", member.host, found, kept)
        expect(found >= running, "attempts have workspaces", member.host, found, running)
        for attempt in member.attempts:
            build = self.builds[attempt.number[0]]
            expect(build.owner == member.host, "only owners work on a build", build, member.host)

    def _state(self, build: Build) -> BuildState:
        return BuildMachine.rehydrate(self.farm.database.builds[build.id].events).state

    def check_end(self) -> None:
        """Every build has ended: nothing of it is left anywhere."""
        left = [(build.id, build.state, build.owner) for build in self.living]
        expect(left == [], "every build ends", left)
        jobs = [vars(job) for job in self.farm.database.jobs.rows.values()]
        expect(jobs == [], "no job is left of a build that has ended", jobs)
        problems = self.farm.members[next(iter(self.farm.members))].log.verify_all()  # type: ignore[union-attr]
        expect(problems == [], "the log is whole", problems)
