"""The script of an exported model: MLflow copies it into the model's folder and runs it there (models-from-code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from dmr.serving import RequestError, Server


class RobustModel(mlflow.pyfunc.PythonModel):
    """Takes rows with any modalities, and says of each what it saw and what it makes of it."""

    def load_context(self, context: Any) -> None:
        self.server = Server(Path(context.artifacts["network"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row per row of the input. A mistake in a request is MLflow's INVALID_PARAMETER_VALUE, HTTP's 400."""
        try:
            answers = self.server.answer(model_input.to_dict(orient="records"))
        except RequestError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        names = self.server.served.class_names
        columns: dict[str, Any] = {
            "combination": [answer.combination for answer in answers],
            "predicted_class": [answer.predicted.tolist() for answer in answers],
        }
        if self.server.served.design.size is None:
            columns["predicted_name"] = [names[int(answer.predicted)] for answer in answers]
        columns["probabilities"] = [answer.probabilities.tolist() for answer in answers]
        columns["variance"] = np.array([answer.variance for answer in answers], dtype=object)  # None stays null
        return pd.DataFrame(columns, index=model_input.index)


mlflow.models.set_model(RobustModel())
