# SPDX-License-Identifier: Apache-2.0
"""Instances from the HTTP service, over a real socket."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from panoptic_models import INSTANCE, picture, write_hub_model
from web_service import serving

from segmentation_node.images.files import encode_png
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.service_settings import ServiceSettings


def test_instances_are_returned_if_requested(tmp_path: Path) -> None:
    folder = str(write_hub_model(tmp_path / INSTANCE))
    image = picture(2, 96, 128)
    rendered = Segmenter(folder, runtime='torch', precision='fp32', device='cpu').render(image)
    assert rendered.detections
    models = {'instance': folder, 'semantic': 'deeplabv3plus'}
    with serving(
        ServiceSettings(models, runtime='torch', precision='fp32', device='cpu')
    ) as client:

        def predict(*outputs: str, model: str = 'instance') -> Any:
            data = {'model': model, 'outputs': list(outputs)}
            return client.post('/predict', files={'image': encode_png(image)}, data=data)

        [result] = predict('label', 'instance').json()['results']
        png = base64.b64decode(result['outputs']['instance'])
        ids = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert ids is not None
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids, rendered.instance_mask)
        assert result['instances'] == [
            {
                'id': segment.id, 'class_id': segment.class_id, 'class_name': name,
                'score': segment.score, 'box': segment.box._asdict(),
            }
            for segment, name in rendered.detections
        ]  # fmt: skip
        [result] = predict('label').json()['results']
        assert result['instances'] is None
        tasks = {m['name']: m['task'] for m in client.get('/models').json()['models']}
        assert tasks == {'instance': 'instance', 'semantic': 'semantic'}
        refused = predict('instance', model='semantic')
        assert refused.status_code == 409
        assert 'requires a panoptic model' in refused.json()['detail']
