"""A pipeline with our schedulers is diffusers' pipeline: its files, its pictures, and back again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from visgen_fast.interop import apply_visgen_to_diffusers
from visgen_fast.interop import diffusers as ours
from visgen_fast.interop.diffusers import NAMES

diffusers = pytest.importorskip("diffusers")  # needs Python 3.11


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()


def pipeline_of(unet, scheduler):
    pipeline = diffusers.DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures_of(pipeline, steps=4):
    return pipeline(
        batch_size=2, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="np"
    ).images


def test_a_pipeline_draws_the_same_pictures_and_gets_its_scheduler_back(unet):
    theirs = diffusers.DDPMScheduler()
    pipeline = pipeline_of(unet, theirs)
    expected = pictures_of(pipeline)
    with apply_visgen_to_diffusers(pipeline) as applied:
        assert type(pipeline.scheduler) is ours.DDPMScheduler
        assert isinstance(pipeline.scheduler, diffusers.DDPMScheduler)
        torch.testing.assert_close(
            torch.from_numpy(pictures_of(pipeline)), torch.from_numpy(expected), atol=1e-5, rtol=0
        )
    assert pipeline.scheduler is theirs
    applied.revert()


@pytest.mark.parametrize("name", NAMES)
def test_saved_files_are_diffusers_own(name, unet, tmp_path):
    folders = [tmp_path / "theirs", tmp_path / "ours"]
    pipeline = pipeline_of(unet, getattr(diffusers, name)())
    pipeline.save_pretrained(folders[0])
    apply_visgen_to_diffusers(pipeline)
    pipeline.save_pretrained(folders[1])
    files = [{path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in folders]
    assert files[0] == files[1]
    assert json.loads(files[1][next(path for path in files[1] if path.name == "model_index.json")])["scheduler"] == [
        "diffusers",
        name,
    ]
    assert type(diffusers.DDPMPipeline.from_pretrained(folders[1]).scheduler) is getattr(diffusers, name)


def test_a_scheduler_put_there_meanwhile_stays(unet):
    pipeline = pipeline_of(unet, diffusers.DDPMScheduler())
    applied = apply_visgen_to_diffusers(pipeline)
    pipeline.scheduler = other = diffusers.DDIMScheduler()
    applied.revert()
    assert pipeline.scheduler is other


def test_a_scheduler_that_is_ours_already_stays_and_takes_the_noise_asked_for(unet):
    pipeline = pipeline_of(unet, ours.DDPMScheduler())
    scheduler = pipeline.scheduler
    with apply_visgen_to_diffusers(pipeline, noise="visgen"):
        assert pipeline.scheduler is scheduler and scheduler.visgen_noise == "visgen"
    assert pipeline.scheduler is scheduler and scheduler.visgen_noise == "torch"


def test_a_scheduler_in_the_middle_of_its_steps_is_taken_over(unet):
    def half(take_over):
        pipeline = pipeline_of(unet, diffusers.UniPCMultistepScheduler())
        pipeline.scheduler.set_timesteps(8)
        x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        for k, time in enumerate(pipeline.scheduler.timesteps):
            if k == 4 and take_over:
                apply_visgen_to_diffusers(pipeline)
            x = pipeline.scheduler.step(torch.tanh(x), time, x)[0]
        return x

    torch.testing.assert_close(half(True), half(False), atol=1e-5, rtol=1e-5)


def test_names_in_diffusers_are_replaced_and_put_back():
    before = {name: getattr(diffusers, name) for name in NAMES}
    with apply_visgen_to_diffusers():
        assert all(getattr(diffusers, name) is getattr(ours, name) for name in NAMES)
        made = diffusers.UniPCMultistepScheduler.from_config(diffusers.DDIMScheduler().config)
        assert type(made) is ours.UniPCMultistepScheduler
        assert ours.UniPCMultistepScheduler in made.compatibles
    assert all(getattr(diffusers, name) is before[name] for name in NAMES)


def test_noise_of_ours_is_the_same_in_any_batch_and_drawn_from_the_generator():
    pipeline = type("Pipeline", (), {})()

    def drawn(samples, seeds, name, **config):
        pipeline.scheduler = getattr(diffusers, name)(**config)
        apply_visgen_to_diffusers(pipeline, noise="visgen")
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(5)
        x = torch.zeros(samples, 3, 4, 4)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for time in scheduler.timesteps:
            read = scheduler.scale_model_input(x, time)
            x = scheduler.step(torch.tanh(read), time, x, generator=generators)[0]
        return x

    for name, config in (
        ("DDPMScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("LCMScheduler", {}),
        ("TCDScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ):
        together = drawn(3, (1, 2, 3), name, **config)
        assert torch.equal(together[1:2], drawn(1, (2,), name, **config)), name
        assert not torch.equal(together[1:2], drawn(1, (4,), name, **config)), name


def test_bad_arguments_are_one_sentence(unet):
    with pytest.raises(ValueError, match="noise must be 'torch' or 'visgen', got 'ours'"):
        apply_visgen_to_diffusers(noise="ours")
    with pytest.raises(ValueError, match="must have one of the schedulers that are replaced"):
        apply_visgen_to_diffusers(pipeline_of(unet, diffusers.PNDMScheduler()))


def test_a_subclass_of_somebody_else_is_left_alone(unet):
    class Mine(diffusers.DDPMScheduler):
        pass

    with pytest.raises(ValueError, match="must have one"):
        apply_visgen_to_diffusers(pipeline_of(unet, Mine()))


def test_a_pickle_opens_in_another_process(tmp_path):
    import pickle

    scheduler = ours.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(5)
    (tmp_path / "scheduler.pickle").write_bytes(pickle.dumps(scheduler))
    code = "import pickle, sys; print(type(pickle.load(open(sys.argv[1], 'rb'))).__mro__[1].__name__)"
    command = [sys.executable, "-c", code, str(tmp_path / "scheduler.pickle")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "Stepping"


def test_importing_the_adapter_imports_no_diffusers():
    code = "import sys, visgen_fast.interop, visgen_fast.interop.diffusers; assert 'diffusers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# What follows is NaN, or an error of its own, in diffusers 0.42.


def ended(scheduler, steps, output=torch.tanh, **options):
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for time in scheduler.timesteps:
        x = scheduler.step(output(x), time, x, **options)[0]
    return x


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
COLLAPSED = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}


@pytest.mark.parametrize(
    ("name", "config", "steps", "options"),
    [
        ("DDPMScheduler", {"variance_type": "fixed_large_log"}, 5, {}),
        ("UniPCMultistepScheduler", {"solver_type": "bh1"}, 5, {}),
        ("UniPCMultistepScheduler", {"lower_order_final": False}, 5, {}),
        ("UniPCMultistepScheduler", {"lower_order_final": False, "solver_order": 3}, 5, {}),
        ("UniPCMultistepScheduler", {"predict_x0": False}, 5, {}),
        ("UniPCMultistepScheduler", COLLAPSED, 25, {}),
        ("UniPCMultistepScheduler", FLOW, 999, {}),
        ("DPMSolverMultistepScheduler", COLLAPSED, 25, {}),
    ],
)
def test_finite_where_diffusers_is_not(name, config, steps, options):
    try:
        assert not ended(getattr(diffusers, name)(**config), steps, **options).isfinite().all()
    except (IndexError, AssertionError, torch.linalg.LinAlgError):
        pass
    assert ended(getattr(ours, name)(**config), steps, **options).isfinite().all()


def test_ddim_at_zero_terminal_snr_is_finite_with_all_its_noise():
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    for steps in range(1, 60):
        assert ended(ours.DDIMScheduler(**zero), steps, eta=1.0).isfinite().all(), steps


def test_a_prediction_of_noise_without_signal_is_refused():
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    assert not ended(diffusers.DDIMScheduler(clip_sample=False, **zero), 5).isfinite().all()
    with pytest.raises(ValueError, match="no finite step"):
        ended(ours.DDIMScheduler(clip_sample=False, **zero), 5)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_terminal_shift_of_a_single_step_is_refused(name):
    config = {"shift_terminal": 0.1} | (FLOW if "UniPC" in name else {})
    with (
        pytest.warns(RuntimeWarning, match="invalid value|divide by zero"),
        pytest.raises(ValueError, match="no finite"),
    ):
        ended(getattr(ours, name)(**config), 1)
