"""Linear layers on weights that oneDNN packed once, for calls without gradients on a CPU.

plan.py finds the layers and packs their weights where measure.py found that faster; forward.py is what such a
layer runs, weight.py a packed weight and when it is out of date, onednn.py the ops of torch.
"""
