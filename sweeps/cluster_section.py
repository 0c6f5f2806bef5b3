"""The `cluster:` block of a sweep file: where and how `srloss submit` runs it. Changes no result, so no trial's id either."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from sr.section import Section


class ClusterSection(Section):
    """What a job asks for; the names are submitit's, `slurm_` before those that only SLURM has."""

    mode: Literal["ray", "array"] = "ray"
    """On SLURM. ray: a Ray cluster inside one allocation. array: no daemons, each trial an element of a job array whose ranks
    SLURM itself starts (methods grid and random, without early_terminate or population)."""
    nodes: int = Field(default=1, ge=1)
    """Of the allocation; with mode array: of each trial."""
    timeout_min: int = Field(default=60, ge=1)
    """Time limit. A job that reaches it saves, is requeued and goes on, as often as it takes."""
    cpus_per_node: int | None = Field(default=None, ge=1)
    """With mode ray; null: those that one trial at a time needs, spread over the nodes."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """null: as many as one trial at a time needs there."""
    mem_gb: float | None = Field(default=None, gt=0)
    """Memory per node, in GB; null: the site's default."""
    slurm_partition: str | None = None
    slurm_account: str | None = None
    slurm_qos: str | None = None
    slurm_gres: str | None = None
    """Instead of gpus_per_node where a site wants it, e.g. `gpu:a100:4`."""
    slurm_constraint: str | None = None
    slurm_exclude: str | None = None
    slurm_nodelist: str | None = None
    slurm_exclusive: bool = False
    slurm_comment: str | None = None
    slurm_mail_type: str | None = None
    slurm_mail_user: str | None = None
    slurm_wckey: str | None = None
    slurm_signal_delay_s: int = Field(default=120, ge=10)
    """How long before the time limit the job is told to save."""
    slurm_array_parallelism: int | None = Field(default=None, ge=1)
    """Trials at once with mode array; null: `max_concurrent_trials`, or as many as the site gives."""
    slurm_setup: tuple[str, ...] = ()
    """Lines of shell before the work, e.g. `module load cuda/13`."""
    slurm_srun_args: tuple[str, ...] = ()
    """E.g. `--container-image=srloss.sqsh`."""
    slurm_python: str | None = None
    """Command in place of the Python that submits, e.g. `apptainer exec --nv srloss.sif python`."""
    slurm_additional_parameters: dict[str, Any] = Field(default_factory=dict)
    """Any other option of sbatch, by its long name."""
    address: str | None = None
    """Of a Ray cluster's dashboard, e.g. `http://10.0.0.1:8265`; `--address` and $RAY_API_SERVER_ADDRESS do the same."""
    ship_code: bool = False
    """Whether Ray's machines run a copy of srloss that is sent with the job, in place of the one installed there."""
    node_cache: str | None = None
    """A folder on a disk of each node, such as `/local` or `$SLURM_TMPDIR`, to which the data set is copied, once per node."""

    @field_validator("slurm_setup")
    @classmethod
    def _without_keys(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if any("API_KEY=" in line.replace(" ", "") for line in lines):
            raise ValueError(
                "an API key has no place here: the lines are kept with the sweep and shown by SLURM; use wandb login, whose "
                "~/.netrc the nodes read, or export WANDB_API_KEY before srloss submit"
            )
        return lines
