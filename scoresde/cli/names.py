"""Names of the commands, and what each does in a line."""

COMMANDS = {
    "train": "train a model, then sample, compute its likelihood and write a report",
    "sample": "draw samples from a trained run",
    "restore": "posterior samples of what was measured: inpainting, deblurring, ...",
    "likelihood": "log-likelihood of data under a trained run",
    "information": "where a trained run spends its bits, by noise level and in three ways",
    "compare": "samplers × numbers of steps × seeds on a trained run, with a picture of error against cost",
    "certify": "how wrong samplers are, against exact posteriors or exact flows",
    "evaluate": "quality of a run's samples against held-out data",
    "tune": "find the times and coefficients that suit a trained run at a few evaluations",
    "suggest": "noise levels, Langevin steps and β's that suit data, and why",
    "encode": "latents of data by an encoder of your own, to train on",
    "dequantise": "train the flow that dequantisation=variational uses",
    "ema": "averages of the weights with other profiles, made after training",
    "export": "a run in the format of another project: a folder that diffusers loads",
    "report": "one page about a run, or about all runs of a sweep or a folder",
}
OTHERS = {
    "import": "a checkpoint of another project as a run directory",
    "convert": "data of other formats as an .npz file, or as pictures in a zip or folder",
    "list": "what there is to choose: scoresde list samplers",
    "completion": "tab completion for bash, zsh or fish",
}
