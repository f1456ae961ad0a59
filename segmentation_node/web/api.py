# SPDX-License-Identifier: Apache-2.0
"""The routes of the service."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Annotated, Any, Final

from fastapi import (
    APIRouter,
    Depends,
    File,
    Form,
    Header,
    Path,
    Query,
    Request,
    Response,
    UploadFile,
)
from pydantic import BaseModel, Field

from segmentation_node.checkpoint import SPEC_FILE, Spec, bundled_models, locate
from segmentation_node.labels import available_schemes, load_scheme
from segmentation_node.runtimes.choices import DEFAULT_OVERLAY_ALPHA
from segmentation_node.web.answers import (
    LegendEntry,
    OutputName,
    Prediction,
    Predictions,
    Wish,
    legend,
    pictures,
)
from segmentation_node.web.clients import scope_client
from segmentation_node.web.loss_names import loss_in_words
from segmentation_node.web.predictor import Predictor
from segmentation_node.web.problems import ProblemError, described
from segmentation_node.web.shelf import Model

#: Stands for all models there are.
ALL: Final = 'all'
UPLOAD_PROBLEMS: Final = (
    'unreadable-form', 'unauthorized', 'too-slow', 'too-many-bytes', 'too-many-pixels',
    'unsupported-format', 'heic-format', 'damaged-image', 'invalid-request', 'unknown-model',
    'busy', 'model-failed',
)  # fmt: skip


class ModelInfo(BaseModel):
    """One model that can be asked for."""

    name: str = Field(examples=['deeplabv3plus'])
    state: str = Field(description='idle until first asked for, loading, ready, or failed')
    family: str | None = Field(description='null where it is known only once loaded')
    label_scheme: str | None = Field(examples=['cityscapes8'])
    parameters: int | None = Field(description='weights of the network')
    load_s: float | None = Field(description='how long it took to load')
    max_batch: int | None = Field(
        description='images it takes at once; 1 where company would change their labels'
    )
    scores: dict[str, dict[str, float | dict[str, float]]] = Field(
        description='of its training, by validation set: mIoU and more, 0 to 1'
    )
    curve: list[dict[str, float]] = Field(
        description='of its training, by epoch from 1: losses, scores on the first set, images '
        'per second in validation, seconds of training'
    )
    loss: str = Field(
        description='kind of loss of its training, empty where it is not known; values of '
        'different kinds may not be compared',
        examples=['cross-entropy + 0.5 Dice (hardest 0.5, class_balance 0.4)'],
    )


class Models(BaseModel):
    """The models that can be asked for, the default first."""

    models: list[ModelInfo]


class Scheme(BaseModel):
    """A label scheme: which classes exist, under which ids, names and colours."""

    name: str = Field(examples=['cityscapes8'])
    description: str
    void_id: int = Field(description='label of pixels that belong to no class')
    classes: list[LegendEntry]


def make_router(predictor: Predictor) -> APIRouter:
    """The routes that people and programs come for."""
    settings = predictor.settings
    router = APIRouter(responses=described('unauthorized'))
    names = [*settings.models, ALL]
    model_help = {
        'description': f'which model, may be repeated; {ALL} is every one. Default: {names[0]}',
        'json_schema_extra': {'items': {'type': 'string', 'enum': names}},
    }
    outputs_help: dict[str, Any] = {
        'description': 'which pictures, may be repeated. Default: label'
    }
    alpha_help: dict[str, Any] = {
        'description': 'share of the colours in the overlay', 'ge': 0, 'le': 1,
    }  # fmt: skip

    def wish_of(
        model: Annotated[list[str], Query(**model_help)] = [],  # noqa: B006 (read only)
        outputs: Annotated[list[OutputName], Query(**outputs_help)] = [],  # noqa: B006
        overlay_alpha: Annotated[float, Query(**alpha_help)] = DEFAULT_OVERLAY_ALPHA,
        model_field: Annotated[list[str], Form(alias='model', **model_help)] = [],  # noqa: B006
        outputs_field: Annotated[list[OutputName], Form(alias='outputs', **outputs_help)] = [],  # noqa: B006
        overlay_alpha_field: Annotated[
            float, Form(alias='overlay_alpha', **alpha_help)
        ] = DEFAULT_OVERLAY_ALPHA,
    ) -> Wish:
        """What a request asks for, in its address or in its form."""
        return Wish(
            _models(model + model_field, list(settings.models)),
            tuple(dict.fromkeys(outputs + outputs_field)) or ('label',),
            overlay_alpha_field if overlay_alpha == DEFAULT_OVERLAY_ALPHA else overlay_alpha,
        )

    @router.post(
        '/predict',
        response_model=Prediction,
        responses={
            200: {
                'description': 'as JSON, or with "Accept: image/png" as one picture',
                'content': {'image/png': {'schema': {'type': 'string', 'format': 'binary'}}},
            },
            **described(*UPLOAD_PROBLEMS),
        },
        summary='Segment one image',
    )
    async def predict(
        image: Annotated[UploadFile, File(description='JPEG, PNG, TIFF or WebP')],
        wish: Annotated[Wish, Depends(wish_of)],
        request: Request,
        accept: Annotated[str, Header(description='application/json or image/png')] = '',
    ) -> Response:
        """Segment one image with one model or several.

        Masks have the size of the image as it is seen: a photograph is turned upright first.
        """
        as_png = 'image/png' in accept and 'json' not in accept
        if as_png and (len(wish.models), len(wish.outputs)) != (1, 1):
            raise ProblemError(
                'invalid-request',
                f'{len(wish.models)} models and {len(wish.outputs)} outputs make more than one '
                f'picture; ask for one of each, or accept application/json',
            )
        data = await image.read()
        client = scope_client(request.scope)
        async with predictor.segmented([data], wish.models, client) as [seen]:
            if as_png:
                [found] = seen.found.values()
                files = await predictor.off_loop(
                    partial(pictures, seen.image_rgb, found, wish.outputs, wish.overlay_alpha)
                )
                timing = f'decode;dur={seen.decode_ms:.1f}, wait;dur={found.wait_ms:.1f}, '
                timing += f'segment;dur={found.segment_ms:.1f}'
                return Response(
                    files[wish.outputs[0]], media_type='image/png',
                    headers={'Server-Timing': timing},
                )  # fmt: skip
            text = await predictor.off_loop(lambda: seen.prediction(wish).model_dump_json())
        return Response(text, media_type='application/json')

    @router.post(
        '/predict/batch',
        response_model=Predictions,
        responses=described(*UPLOAD_PROBLEMS),
        summary='Segment several images',
    )
    async def predict_batch(
        images: Annotated[list[UploadFile], File(
            description='JPEG, PNG, TIFF or WebP, of any sizes',
            min_length=1, max_length=settings.max_images,
        )],
        wish: Annotated[Wish, Depends(wish_of)],
        request: Request,
    ) -> Response:  # fmt: skip
        """Segment several images with one model or several; all of them, or none."""
        files = [await image.read() for image in images]
        client = scope_client(request.scope)
        async with predictor.segmented(files, wish.models, client) as all_seen:
            text = await predictor.off_loop(
                lambda: Predictions(
                    predictions=[seen.prediction(wish) for seen in all_seen]
                ).model_dump_json()
            )
        return Response(text, media_type='application/json')

    @router.get('/models', summary='Which models there are')
    def models() -> Models:
        """The models that can be asked for, with their scores, and which are loaded."""
        return Models(models=[_info(m) for m in predictor.batcher.shelf.models.values()])

    @router.get(
        '/labels/{scheme}',
        responses=described('unknown-scheme', 'invalid-request'),
        summary='What the labels mean',
    )
    def labels(
        scheme: Annotated[str, Path(examples=['cityscapes8'], description='name of the scheme')],
    ) -> Scheme:
        """A label scheme: ids, names and colours of its classes."""
        # Names only: load_scheme would take a path as well.
        if scheme not in available_schemes():
            raise ProblemError(
                'unknown-scheme',
                f'no label scheme {scheme[:80]!r}; there are {", ".join(available_schemes())}',
            )
        found = load_scheme(scheme)
        return Scheme(
            name=found.name,
            description=found.description,
            void_id=found.void_id,
            classes=legend(found),
        )

    return router


def _models(asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The models of a request in the order asked for, each once; raises ProblemError."""
    unknown = [name for name in asked if name not in known and name != ALL]
    if unknown:
        raise ProblemError(
            'unknown-model',
            f'no model {unknown[0][:80]!r}; there are {", ".join(known)}, and {ALL} for every one',
        )
    if ALL in asked:
        return tuple(known)
    return tuple(dict.fromkeys(asked)) or (known[0],)


@cache
def _bundled_spec(name: str) -> Spec:
    return Spec.read(locate(name) / SPEC_FILE)


def _info(model: Model) -> ModelInfo:
    spec = None
    if model.segmenter is not None:
        spec = model.segmenter.checkpoint.spec
    elif model.source in bundled_models():
        spec = _bundled_spec(model.source)
    provenance = spec.provenance if spec else {}
    ready = model.segmenter is not None
    return ModelInfo(
        name=model.name,
        state=model.state,
        family=spec.family if spec else None,
        label_scheme=spec.label_scheme if spec else None,
        parameters=provenance.get('parameters'),
        load_s=model.load_s if ready else None,
        max_batch=model.max_batch if ready else None,
        scores=provenance.get('metrics', {}),
        curve=provenance.get('curve', []),
        loss=loss_in_words(provenance.get('loss_kind'), provenance.get('recipe', {})),
    )
