"""What runs in the processes that train: one trial in a reused process, or one trial on several workers.

They write checkpoints and send messages to the driver; they never import tracking, stages, Optuna or MLflow. May
import storage.
"""
