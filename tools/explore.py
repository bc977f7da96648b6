"""Explore in a browser what a backbone does with an image: click a place, and see which tokens it attends to."""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

if __name__ == '__main__':  # before torch loads OpenMP
    from mmsec.cli.openmp import choose_threads

    choose_threads()

import mmcv
import torch
from mmengine.config import DictAction

from mmsec.cli.config import load_config
from mmsec.cli.explorer import COUNTS, STRENGTHS, Explorer
from mmsec.engine.processes import run
from mmsec.errors import InputError
from mmsec.models import ViT
from mmsec.ops.merging import MERGINGS
from mmsec.visualization.exploring import picture_size

COUNTED = {'': 'as in the model', 'num_clusters': 'number of clusters', 'cluster_size': 'tokens in a cluster'}
HELP = 'Click a place. Below are the tokens that the framed one attends to, brighter for more, or is merged with.'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config with a backbone of mmsec (default: SecViT-T)')
    parser.add_argument('checkpoint', nargs='?', help='published or trained weights (default: random ones)')
    parser.add_argument('--port', type=int, default=7860, help='of the page, on this machine (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    args = parser.parse_args()
    if args.cfg_options and not args.config:
        parser.error('--cfg-options need a config')
    return args


def gradio() -> Any:
    """The library of the page, told to stay away from the network."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    try:
        import gradio
    except ImportError as error:
        raise InputError("the page needs gradio, not installed here: pip install 'gradio>=6.31,<7'") from error
    return gradio


def make_page(explorer: Explorer) -> Any:
    """The page, which asks an explorer."""
    gr = gradio()
    vit = isinstance(explorer.backbone, ViT)
    stages = [(f'{"block" if vit else "stage"} {i + 1}', i) for i, blocks in enumerate(explorer.blocks) if blocks]
    others = explorer.others

    def of_stage(stage: int) -> tuple[Any, Any]:
        """What there is to choose from in a stage: at first its last block and first head."""
        blocks = explorer.blocks[stage]
        return (
            gr.Slider(1, max(blocks, 2), value=blocks, step=1, label='Block', visible=blocks > 1),
            gr.Dropdown([(name, i) for i, name in enumerate(explorer.heads(stage))], value=0, label='Head'),
        )

    def of_other(other: str) -> tuple[Any, Any]:
        """What can be set of a grouping or a merging."""
        if other not in STRENGTHS:
            return gr.Column(visible=other not in MERGINGS), gr.Slider(visible=False)
        option, least, most, start, step = STRENGTHS[other]
        return gr.Column(visible=False), gr.Slider(least, most, start, step=step, label=option, visible=True)

    def of_count(by: str) -> Any:
        """The number that can be set."""
        least, most, start, step = COUNTS.get(by) or COUNTS['num_clusters']
        return gr.Slider(least, most, start, step=step, label=COUNTED.get(by), visible=by in COUNTS)

    def show(
        file: str,
        stage: int,
        block: int,
        head: int,
        x: float,
        y: float,
        other: str,
        by: str,
        count: int,
        strength: float,
    ) -> list[Any]:
        """Look, and fill the page in."""
        nothing = [gr.Column(visible=False), '', None, None] * 2
        if file is None:
            return ['Upload an image.', *nothing]
        amount: tuple[str, float] | None = (by, count) if by in COUNTS else None
        if other in MERGINGS:
            amount = ('', strength) if other in STRENGTHS else None
        try:
            looked = explorer.look(Path(file), stage, block - 1, head, (x, y), other or '', amount)
        except ValueError as error:  # of what was given
            return [f'**{str(error).replace(f"{Path(file).parent}/", "")}**', *nothing]
        shown = []
        for title, each in zip(('As in the model', 'Beside it'), looked, strict=False):
            words = f'### {title}: {each.name}\n{each.words}'
            shown += [gr.Column(visible=True), words, each.clusters, each.attended]
        return [HELP, *shown, *nothing[len(shown) :]]

    def predict(file: str) -> tuple[Any, str]:
        """The image, with what is predicted; one that cannot be read is told by :func:`show`."""
        nothing = gr.Image(visible=False), ''
        if file is None:
            return nothing
        try:
            path, picture, _ = explorer.read(Path(file))
        except InputError:
            return nothing
        drawn, words = explorer.predict(path) if explorer.predict else (None, '')
        picture = picture if drawn is None else drawn
        picture = mmcv.imresize(picture, picture_size(picture))
        return gr.Image(picture, visible=True), f'Predicted: {words}' if words else ''

    def clicked(file: str, at: gr.SelectData) -> list[float]:  # type: ignore[name-defined]  # gradio reads it
        """The place in shares of width and height."""
        size = picture_size(explorer.read(Path(file))[1])
        return [(at.index[i] + 0.5) / size[i] for i in (0, 1)]

    with gr.Blocks(title='mmsec explore', analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f'# {explorer.title}')
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                options = dict(format='png', interactive=False, show_label=False, buttons=['download', 'fullscreen'])
                file = gr.File(label='Image', file_count='single', height=140)
                predicted, of_model = gr.Image(visible=False, **options), gr.Markdown()
                stage = gr.Dropdown(stages, value=stages[0][1], label='Block' if vit else 'Stage')
                block, head = of_stage(stages[0][1])
                beside = 'WindowGrouping' if 'WindowGrouping' in others else None
                other = gr.Dropdown(others, value=beside, label='Beside it', visible=bool(others))
                with gr.Column(visible=explorer.groups) as counts:
                    choices = [(label, value) for value, label in COUNTED.items()]
                    by = gr.Radio(choices, value='', label='How many')
                    count = of_count('')
                strength = gr.Slider(visible=False)
                x, y = (gr.Number(0.5, label=name, visible=False) for name in ('x', 'y'))
            with gr.Column(scale=3):
                said = gr.Markdown('Upload an image.')
                with gr.Row():
                    parts = []
                    for _ in range(2):
                        with gr.Column(min_width=300, visible=False) as column:
                            parts += [column, gr.Markdown(), gr.Image(**options), gr.Image(**options)]
        given = [file, stage, block, head, x, y, other, by, count, strength]
        one = dict(concurrency_id='model', concurrency_limit=1, trigger_mode='always_last')
        gr.on(
            [file.change, block.release, head.input, count.release, strength.release],
            show,
            given,
            [said, *parts],
            api_name='show',
            **one,
        )
        first = [  # what must be done before a look
            stage.input(of_stage, stage, [block, head], api_visibility='private'),
            other.input(of_other, other, [counts, strength], api_visibility='private'),
            by.input(of_count, by, count, api_visibility='private'),
        ]
        for picture in (parts[2], parts[3], parts[6], parts[7]):
            first.append(picture.select(clicked, file, [x, y], api_visibility='private'))
        for event in first:
            event.then(show, given, [said, *parts], api_visibility='private', **one)
        file.change(predict, file, [predicted, of_model], api_name='predict', **one)
    return page


def launch(page: Any, port: int | None) -> str:
    """Serve a page on this machine alone, at a port or any; its address."""
    fonts = dict(font=['system-ui', 'sans-serif'], font_mono=['monospace'])  # the default ones are of another server
    try:
        _, address, _ = page.launch(
            server_name='127.0.0.1',
            server_port=port,
            share=False,
            quiet=True,
            ssr_mode=False,
            show_error=True,
            footer_links=[],
            max_file_size='100mb',
            theme=gradio().themes.Default(**fonts),
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise InputError(f'--port {port} cannot be used, by another program or at all; name another') from error
    return address


def main() -> None:
    """Serve."""
    args = parse_args()
    gradio()
    cfg = load_config(args.config, args.cfg_options) if args.config else None
    device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    with tempfile.TemporaryDirectory() as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder  # for images of the page
        page = make_page(Explorer(cfg, args.checkpoint, device))
        print(f'{launch(page, args.port)}   (Ctrl-C ends it)', flush=True)
        page.block_thread()


if __name__ == '__main__':
    run(main)
