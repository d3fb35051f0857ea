from .multistep import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from .sigmas import EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from .timesteps import *
