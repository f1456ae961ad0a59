# SPDX-License-Identifier: Apache-2.0
"""The routes of the service."""

from collections.abc import Sequence
from functools import cache
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
from segmentation_node.web.clients import scope_client
from segmentation_node.web.loss_names import loss_name
from segmentation_node.web.model_cache import ServedModel
from segmentation_node.web.predictor import Predictor
from segmentation_node.web.problems import ProblemError, described
from segmentation_node.web.responses import (
    BatchResult,
    ImageResult,
    LegendEntry,
    OutputName,
    PredictOptions,
    legend,
    render_outputs,
)

#: Model name that selects all models.
ALL: Final = 'all'
UPLOAD_PROBLEMS: Final = (
    'unreadable-form', 'unauthorized', 'too-slow', 'too-many-bytes', 'too-many-pixels',
    'unsupported-format', 'heic-format', 'damaged-image', 'invalid-request', 'unknown-model',
    'no-instances', 'busy', 'model-failed',
)  # fmt: skip


class ModelInfo(BaseModel):
    """One model of the service."""

    name: str = Field(examples=['deeplabv3plus'])
    state: str = Field(description='idle until its first request, then loading, ready or failed')
    family: str | None = Field(
        description='model family; null if unknown before the model is loaded'
    )
    label_scheme: str | None = Field(
        description='null if unknown before the model is loaded', examples=['cityscapes8']
    )
    task: str | None = Field(
        description='semantic, or panoptic or instance for a model that tells objects apart; null '
        'if unknown before the model is loaded',
        examples=['semantic'],
    )
    parameters: int | None = Field(description='number of parameters of the network')
    load_s: float | None = Field(description='load time in seconds')
    max_batch: int | None = Field(description='largest batch; 1 if batching would change labels')
    scores: dict[str, dict[str, float | dict[str, float]]] = Field(
        description='scores after training, by validation set: mIoU and others, 0 to 1'
    )
    curve: list[dict[str, float]] = Field(
        description='training history, one entry per epoch from 1: losses, scores on the first '
        'validation set, images per second in validation, training time in seconds'
    )
    loss: str = Field(
        description='loss function of the training, empty if unknown; only values of the same '
        'loss function can be compared',
        examples=['cross-entropy + 0.5 Dice (hardest 0.5, class_balance 0.4)'],
    )


class Models(BaseModel):
    """All models of the service, the default first."""

    models: list[ModelInfo]


class Scheme(BaseModel):
    """Label scheme: ids, names and colors of the classes."""

    name: str = Field(examples=['cityscapes8'])
    description: str
    void_id: int = Field(description='label of pixels that belong to no other class')
    classes: list[LegendEntry]


def make_router(predictor: Predictor) -> APIRouter:
    """Return the routes for predictions, models and label schemes."""
    settings = predictor.settings
    router = APIRouter(tags=['Segmentation'], responses=described('unauthorized'))
    names = [*settings.models, ALL]
    model_help = {
        'description': f'name of a model, may be repeated; {ALL} selects all models. '
        f'Default: {names[0]}',
        'json_schema_extra': {'items': {'type': 'string', 'enum': names}},
    }
    outputs_help: dict[str, Any] = {
        'description': 'name of an output, may be repeated. Default: label'
    }
    alpha_help: dict[str, Any] = {
        'description': 'opacity of the colors in the overlay', 'ge': 0, 'le': 1,
    }  # fmt: skip

    def read_options(
        model: Annotated[list[str], Query(**model_help)] = [],  # noqa: B006 (read only)
        outputs: Annotated[list[OutputName], Query(**outputs_help)] = [],  # noqa: B006
        overlay_alpha: Annotated[float, Query(**alpha_help)] = DEFAULT_OVERLAY_ALPHA,
        model_field: Annotated[list[str], Form(alias='model', **model_help)] = [],  # noqa: B006
        outputs_field: Annotated[list[OutputName], Form(alias='outputs', **outputs_help)] = [],  # noqa: B006
        overlay_alpha_field: Annotated[
            float, Form(alias='overlay_alpha', **alpha_help)
        ] = DEFAULT_OVERLAY_ALPHA,
    ) -> PredictOptions:
        """Read the options of a request from its query parameters and form fields."""
        return PredictOptions(
            _models(model + model_field, list(settings.models)),
            tuple(dict.fromkeys(outputs + outputs_field)) or ('label',),
            overlay_alpha_field if overlay_alpha == DEFAULT_OVERLAY_ALPHA else overlay_alpha,
        )

    @router.post(
        '/predict',
        response_model=ImageResult,
        responses={
            200: {
                'description': 'JSON, or a single PNG image with "Accept: image/png"',
                'content': {'image/png': {'schema': {'type': 'string', 'format': 'binary'}}},
            },
            **described(*UPLOAD_PROBLEMS),
        },
        summary='Segment one image',
    )
    async def predict(
        image: Annotated[UploadFile, File(description='JPEG, PNG, TIFF or WebP')],
        options: Annotated[PredictOptions, Depends(read_options)],
        request: Request,
        accept: Annotated[str, Header(description='application/json or image/png')] = '',
    ) -> Response:
        """Segment one image with one or more models.

        Masks have the size of the upright image: the EXIF orientation of a photo is applied first.
        """
        as_png = 'image/png' in accept and 'json' not in accept
        if as_png and (len(options.models), len(options.outputs)) != (1, 1):
            raise ProblemError(
                'invalid-request',
                f'{len(options.models)} models and {len(options.outputs)} outputs give more than '
                f'one PNG image; request one of each, or accept application/json',
            )
        data = await image.read()
        client = scope_client(request.scope)
        async with predictor.process([data], options.models, client) as [processed]:
            if as_png:
                [result] = processed.results.values()
                files = await predictor.run_in_thread(
                    lambda: render_outputs(
                        processed.image_rgb, result, options.outputs, options.overlay_alpha
                    )
                )
                timing = f'decode;dur={processed.decode_ms:.1f}, wait;dur={result.wait_ms:.1f}, '
                timing += f'segment;dur={result.segment_ms:.1f}'
                return Response(
                    files[options.outputs[0]], media_type='image/png',
                    headers={'Server-Timing': timing},
                )  # fmt: skip
            text = await predictor.run_in_thread(
                lambda: processed.response(options).model_dump_json()
            )
        return Response(text, media_type='application/json')

    @router.post(
        '/predict/batch',
        response_model=BatchResult,
        responses=described(*UPLOAD_PROBLEMS),
        summary='Segment several images',
    )
    async def predict_batch(
        images: Annotated[list[UploadFile], File(
            description='JPEG, PNG, TIFF or WebP, of any sizes',
            min_length=1, max_length=settings.max_images,
        )],
        options: Annotated[PredictOptions, Depends(read_options)],
        request: Request,
    ) -> Response:  # fmt: skip
        """Segment several images with one or more models; the request fails if one image does."""
        files = [await image.read() for image in images]
        client = scope_client(request.scope)
        async with predictor.process(files, options.models, client) as all_processed:
            text = await predictor.run_in_thread(
                lambda: BatchResult(
                    predictions=[processed.response(options) for processed in all_processed]
                ).model_dump_json()
            )
        return Response(text, media_type='application/json')

    @router.get('/models', summary='List the models')
    def models() -> Models:
        """Return all models with their state and scores."""
        return Models(models=[_info(m) for m in predictor.batcher.cache.models.values()])

    @router.get(
        '/labels/{scheme}',
        responses=described('unknown-scheme', 'invalid-request'),
        summary='Describe a label scheme',
    )
    def labels(
        scheme: Annotated[str, Path(examples=['cityscapes8'], description='name of the scheme')],
    ) -> Scheme:
        """Return the ids, names and colors of the classes."""
        # Accepts names only: load_scheme would also read a path.
        if scheme not in available_schemes():
            raise ProblemError(
                'unknown-scheme',
                f'unknown label scheme {scheme[:80]!r}; available: '
                f'{", ".join(available_schemes())}',
            )
        loaded = load_scheme(scheme)
        return Scheme(
            name=loaded.name,
            description=loaded.description,
            void_id=loaded.void_id,
            classes=legend(loaded),
        )

    return router


def _models(requested: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the requested models, each once; raises ProblemError for an unknown one."""
    unknown = [name for name in requested if name not in known and name != ALL]
    if unknown:
        raise ProblemError(
            'unknown-model',
            f'unknown model {unknown[0][:80]!r}; available: {", ".join(known)}, and {ALL} for all',
        )
    if ALL in requested:
        return tuple(known)
    return tuple(dict.fromkeys(requested)) or (known[0],)


@cache
def _bundled_spec(name: str) -> Spec:
    return Spec.read(locate(name) / SPEC_FILE)


def _info(model: ServedModel) -> ModelInfo:
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
        task=spec.task if spec else None,
        parameters=provenance.get('parameters'),
        load_s=model.load_s if ready else None,
        max_batch=model.max_batch if ready else None,
        scores=provenance.get('metrics', {}),
        curve=provenance.get('curve', []),
        loss=loss_name(provenance.get('loss_kind'), provenance.get('recipe', {})),
    )
