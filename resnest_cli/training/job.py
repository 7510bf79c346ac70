"""What `resnest train` and `resnest finetune` do, apart from their command lines; free of Typer.

    settings -> data -> network -> plan -> run folder -> loop -> pictures

A resumed run takes the settings and the split from its folder and everything else from its state.
On several devices the first process does all of it, and the others join it in the loop.
"""

import contextlib
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from resnest_cli.cpu import usable_cores
from resnest_cli.errors import ResnestError, UsageError
from resnest_cli.output.training import TrainingDisplay
from resnest_cli.progress import ignore
from resnest_cli.signals import BudgetUsedError, StoppedError, StopRequest
from resnest_cli.text import count
from resnest_cli.training import resumed_run, runs, unknown
from resnest_cli.training.conflicts import check_folds, without_effect
from resnest_cli.training.defaults import default_workers
from resnest_cli.training.distributed import PeerLostError, World, is_worker, join, launch
from resnest_cli.training.folds import HeldOut, cross_validate
from resnest_cli.training.loop import Trainer
from resnest_cli.training.lost_photos import DataLostError
from resnest_cli.training.lr_finder import find_learning_rate
from resnest_cli.training.plan import (
    Estimate,
    answers_plan,
    estimated,
    lines_of_the_rest,
    plan_lines,
)
from resnest_cli.training.report import final_pictures, picture_of_training
from resnest_cli.training.resumed_run import anchored, last_state, note_origins, write_data
from resnest_cli.training.runs import RunFolder, RunKeeper
from resnest_cli.training.settings import (
    Config,
    TrainingJob,
    given_settings,
    load_settings,
    write_args,
)
from resnest_cli.training.setup import Ready, get_ready, load_data
from resnest_cli.training.state import RunRecord, State
from resnest_cli.training.step import DivergedError, Task, keep_memory
from resnest_cli.training.teacher import load_teacher
from resnest_cli.training.tensorboard import check_tensorboard, logged
from resnest_cli.training.time_budget import Clock, budget_seconds, fitted


def run_on_devices(job: TrainingJob, display: TrainingDisplay, arguments: Sequence[str]) -> int:
    """Trains as one of torchrun's processes, or alone, or starts a process for each device.

    `arguments` are those of the command line, which each process gets. The exit code is 0, 130, 143
    or 129, or that of a process that failed.

    Raises:
        UsageError: settings, data or a run that do not fit together.
        ResnestError: the data, the weights, memory or the disk give no way to go on.
    """
    devices = 1 if is_worker() else _wanted(job)
    if devices > 1 and not job.resume:
        config = load_settings(replace(job, data=job.data or "."))
        check_folds(config, devices, find_lr=job.find_lr)
    if devices > 1 and not job.dry_run:
        return launch(devices, arguments)
    if devices > 1:  # what one of them will have
        torch.set_num_threads(max(1, usable_cores() // devices))
    world, code = join(), ResnestError.exit_code
    try:
        run = _Run(job, display, world)
        code = run.lead() if world.main else run.follow()
    except ResnestError as error:
        code = error.exit_code
        raise
    finally:
        if world.main:
            world.dismiss(code)  # those who still wait for a plan
        world.close()
    return code


def _wanted(job: TrainingJob) -> int:
    """How many devices were asked for, by the flag or in the file of settings."""
    return int(given_settings(job).get("devices", 1))


@dataclass(slots=True)
class _Run:
    """One run in one process of `world`, from settings to report."""

    job: TrainingJob
    display: TrainingDisplay
    world: World

    def lead(self) -> int:
        """What the first process does, or the only one; the exit code."""
        runs.check_run_name(self.job.run)
        keep_memory()
        if self.job.find_lr and self.job.resume:
            raise UsageError("--find-lr starts from the beginning; leave out --resume.")
        self.job = job = resumed_run.job_of_torchrun(self.job, self.world)
        if job.resume:
            found = runs.find_run(job.base, job.run)
            if found is not None:
                with contextlib.nullcontext() if job.dry_run else found.locked():
                    return self._resume(found)
            where = job.base / (job.run or "")
            self.display.message(f"Nothing to resume in {where}; starting afresh.")
        return self._start()

    def follow(self) -> int:
        """Waits for the first process, which alone prints what all meet, and trains with it."""
        try:
            keep_memory()
            code, plan = self.world.await_main()
            if plan is None:
                return code
            run, config, dataset, state = plan  # from the other's `_train`
            self.world.device(config.device)
            return self._train(run, get_ready(config, dataset, self.job.access), state)
        except (DivergedError, DataLostError, PeerLostError) as error:
            return error.exit_code
        except ResnestError as error:
            error.args = (f"process {self.world.rank} of {self.world.size}: {error}",)
            raise

    def _start(self) -> int:
        job, display, world = self.job, self.display, self.world
        config = asked = load_settings(job)
        if not (job.dry_run and world.size == 1):  # a plan for several devices needs only one
            config = _settled(config, world)
        check_folds(config, world.size, find_lr=job.find_lr)
        if job.find_lr and world.size > 1:
            raise UsageError("--find-lr: looks on one device; leave out --devices.")
        if not job.dry_run and job.run is not None and not job.resume:
            runs.check_free(job.base / job.run)
        if config.teacher is not None:  # what is wrong with it is said before photos are read
            load_teacher(config, replace(job.access, notify=ignore))
        with display.showing("Checking photos") as progress:
            dataset = load_data(config, progress)
        ready = get_ready(config, dataset, job.access)
        display.data(ready.dataset)
        questions = ready.questions(job.output / "teacher")
        first, seconds = answers_plan(questions)
        display.plan([*plan_lines(ready, self._estimate(ready, seconds)), *first])
        for text in without_effect(job.flags, ready.config):
            display.message(text)
        if questions is not None:
            questions.check_room()
        if job.dry_run:
            return 0
        check_tensorboard(ready.config)
        if job.find_lr:
            return find_learning_rate(job.base, job.run, ready, display)
        if job.resume and job.run is not None and (job.base / job.run).is_dir():
            run = RunFolder(job.base / job.run)  # was killed before it saved anything
        else:
            run = runs.new_run(job.base, job.run)
        with run.locked():
            run.note_job(world.job)
            with display.showing("Asking the teacher") as progress:
                ready.label_validation(progress)
            write_data(run, ready.dataset)
            write_args(run.asked, anchored(asked))
            write_args(run.args, anchored(ready.config))
            display.message(f"Run folder: {run.path}")
            picture_of_training(run.path, ready, display.message)
            return self._train(run, ready, last_state(run, ready, display))

    def _estimate(self, ready: Ready, before: float) -> Estimate:
        """What the run will cost. Epochs that were not asked for are cut to the time budget.

        `before` are seconds that are needed before the first epoch.
        """
        job, found = self.job, estimated(ready)
        settled = "epochs" in given_settings(job)
        if settled or ready.config.time_budget is None:
            return found
        used = time.monotonic() - job.began + before
        ready.config = fitted(ready.config, found.epoch_seconds, used)
        if not found.epoch_seconds:
            return found
        return replace(found, total_seconds=found.epoch_seconds * (ready.config.epochs or 0))

    def _resume(self, run: RunFolder) -> int:
        """Goes on with a run; with `--dry-run` shows what is left of it, and writes nothing."""
        job, display, world = self.job, self.display, self.world
        if job.dry_run:  # one process is enough
            world = World(size=_wanted(job))
        ready = resumed_run.ready_again(job, run, display, world)
        if ready is None:
            return 0
        state = last_state(run, ready, display)
        if job.dry_run:
            first, _ = answers_plan(ready.questions(run.teacher))
            display.plan([*lines_of_the_rest(run, ready, run.record()), *first])
            return 0
        old, new = resumed_run.kept_settings(job, run), ready.config
        if any(getattr(new, n) != getattr(old, n) for n in ("epochs", *resumed_run.PLACES)):
            if ready.dataset.shards is not None:
                write_data(run, ready.dataset)
            write_args(run.args, anchored(new))
        run.note_job(world.job)
        display.message(f"Going on with {run.path}.")
        return self._train(run, ready, state)

    def _train(self, run: RunFolder, ready: Ready, state: State | None) -> int:
        display, world = self.display, self.world
        task: Task | None = None
        trainer: Trainer | None = None
        held_out: HeldOut | None = None
        config = ready.config
        with StopRequest() as stop, display:
            try:
                if world.main:
                    before = config.cached or config.teacher_crops or config.folds
                    if state is None and before:
                        run.note_begun(note_origins(run.record(), ready))
                    self._ask_teacher(run, ready, state, stop)
                    world.begin((run, ready.config, ready.dataset, state))
                if config.folds is not None:
                    held_out = cross_validate(run, ready, stop, display)
                    display.folds(held_out.title, held_out.scores.shown(), held_out.write())
                task = ready.task(run, stop, display, world.rank)
                keeper = None
                if world.main:
                    frozen = ready.network.state_dict() if ready.config.cached else {}
                    keeper = RunKeeper(run, ready.info, frozen, ready.config.keep_epochs)
                    if held_out is not None:
                        keeper = replace(
                            keeper, metrics=held_out.metrics, thresholds=held_out.thresholds
                        )
                world.meet()
                done = state.record.step if state is not None else 0
                with logged(display, run, world.main and ready.config.tensorboard, done) as watched:
                    trainer = Trainer(task, keeper, watched, stop, state, self.job.began, world)
                    note_origins(trainer.record, ready)
                    trainer.run()
                self._keep_unknown(run, ready, task, stop)
            except BudgetUsedError:
                self._end_of_budget(run, ready, task, trainer, stop)
                return 0
            except StoppedError:
                assert stop.signal is not None
                display.message(
                    f"Stopped by {stop.signal.name}; everything so far is saved. To go on:\n"
                    f"  {self._again(run)}"
                )
                return stop.exit_code
            except DivergedError as error:
                there = [n for n in ("best", "last") if run.weights(n).exists()]
                best = f"\nThe best weights so far: {run.weights(there[0])}" if there else ""
                raise DivergedError(f"{error}{best}") from None
            finally:
                ready.close()
            if world.main and held_out is None:
                final_pictures(run, ready, trainer.record, trainer.best, display.message)
            trainer.record.finished = True
            trainer.save()
        if world.main:
            self._summarize(run, ready, trainer.record)
        return 0

    def _ask_teacher(
        self, run: RunFolder, ready: Ready, state: State | None, stop: StopRequest
    ) -> None:
        """Has the answers that the run learns from computed, before the other devices begin."""
        used = 0.0 if state is None else state.record.used
        clock = Clock(budget_seconds(ready.config), used, self.job.began)

        def check() -> None:
            stop.check()
            if clock.late():
                raise BudgetUsedError("the time budget is used up")

        ready.ask_teacher(run, check, self.display)

    def _keep_unknown(self, run: RunFolder, ready: Ready, task: Task, stop: StopRequest) -> None:
        """What `predict --unknown` needs, in `best`; one device measures it, the others wait."""
        if self.world.main:
            with contextlib.suppress(StoppedError):  # answered below, by all
                unknown.keep(run, ready, task, stop, self.display)
        self.world.meet()
        self.world.decide(stop)
        stop.check()

    def _end_of_budget(
        self,
        run: RunFolder,
        ready: Ready,
        task: Task | None,
        trainer: Trainer | None,
        stop: StopRequest,
    ) -> None:
        """The run ends here, as was asked for, and could go on."""
        config = ready.config
        longer = f"  {self._again(run)} --time-budget {2 * math.ceil(budget_seconds(config))}s"
        if task is None or trainer is None:
            self.display.message(
                f"The time budget of {config.time_budget} is used up, and the teacher has not yet "
                f"seen all photos; its answers so far are saved. To go on:\n{longer}"
            )
            return
        record = trainer.record
        if record.rows and self.world.main:
            with contextlib.suppress(StoppedError):  # it ends anyway
                unknown.keep(run, ready, task, stop, self.display)
            final_pictures(run, ready, record, trainer.best, self.display.message)
            self._summarize(run, ready, record)
        self.display.message(
            f"The time budget of {config.time_budget} is used up after {record.epoch} of "
            f"{config.epochs} epochs and {record.step:,} steps; everything is saved. To go on:\n"
            f"{longer}"
        )

    def _again(self, run: RunFolder) -> str:
        job, world = self.job, self.world
        words = ["resnest", job.command]
        if world.size > world.local_size:
            words = ["torchrun", "...", "-m", "--", "resnest_cli", job.command]
        words += [job.data] if job.data is not None else []
        words += ["--output", str(job.output)] if job.output != Path("runs") else []
        words += ["--devices", str(world.size)] if 1 < world.size == world.local_size else []
        return shlex.join([*words, "--run", run.path.name, "--resume"])

    def _summarize(self, run: RunFolder, ready: Ready, record: RunRecord) -> None:
        """How good the run became, what was left out, and a prediction to try."""
        photos = ready.dataset.val or ready.dataset.train
        there = (sample.path for sample in photos if Path(sample.path).exists())
        photo = next(there, "PHOTO")
        command = shlex.join(["resnest", "predict", photo, "--model", str(run.weights("best"))])
        self.display.summary(run.path, record.rows, command, record.used, len(record.lost))


def _settled(config: Config, world: World) -> Config:
    if config.devices not in {1, world.size}:
        raise UsageError(
            f"--devices {config.devices}, but "
            f"{count(world.size, 'process was', 'processes were')} started. "
            "Leave it out: torchrun says how many there are."
        )
    device, workers = world.device(config.device), config.workers
    if workers is None and world.local_size > 1:
        workers = default_workers(device, world.local_size)
    return replace(config, devices=world.size, device=device, workers=workers)
