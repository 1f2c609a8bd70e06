"""Trains the demo model on text generated on the fly.

  python3 train.py --out ../../deploy/demo_model --minutes 45     # schedule follows the clock
  python3 train.py --out ../../deploy/demo_model --steps 2000     # schedule follows the step: repeatable

Two processes of one thread each keep two busy cores better used than one process of two threads; they share a step:

  torchrun --nproc-per-node 2 train.py --threads 1 --out ... --minutes 45

Muon for the matrices inside the layers, AdamW for the rest; constant rate, then a linear fall to zero. The folder must
hold the tokenizer (train_tokenizer.py). It is written at every --save-every minutes and at the end.
"""

import argparse
import os
import random
import time

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F

import generate_text
import model as demo

WARMUP_STEPS = 40
MUON_RATE, ADAM_RATE = 0.02, 0.003


def orthogonalize(g):
  """Newton-Schulz iteration on [N, R, C]: the nearest matrices with orthonormal rows. Source: K. Jordan 2024, Muon."""
  transposed = g.shape[1] > g.shape[2]
  x = g.bfloat16()
  x = x.transpose(1, 2) if transposed else x
  x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
  for _ in range(5):
    a = x @ x.transpose(1, 2)
    b = -4.7750 * a + 2.0315 * (a @ a)
    x = 3.4445 * x + b @ x
  return (x.transpose(1, 2) if transposed else x).float()


class Muon:
  """Momentum, made orthogonal per matrix; matrices of one shape are handled together."""

  def __init__(self, parameters, momentum=0.95):
    by_shape = {}
    for p in parameters:
      by_shape.setdefault(tuple(p.shape), []).append(p)
    self.groups = [(ps, torch.zeros(len(ps), *shape)) for shape, ps in by_shape.items()]
    self.momentum = momentum

  @torch.no_grad()
  def step(self, rate):
    for parameters, velocity in self.groups:
      gradient = torch.stack([p.grad for p in parameters])
      velocity.mul_(self.momentum).add_(gradient)
      update = orthogonalize(gradient + self.momentum * velocity)
      rows, columns = parameters[0].shape
      update *= -rate * max(1.0, rows / columns)**0.5
      for p, u in zip(parameters, update):
        p.mul_(1 - 0.01 * rate).add_(u)


class Rows:
  """Packs documents into rows. A row starts with the start of a document and is cut at its end."""

  def __init__(self, tokenizer, seed, mix):
    self.tokenizer, self.rng, self.mix = tokenizer, random.Random(seed), mix

  def batch(self, rows, length):
    result = torch.empty(rows, length + 1, dtype=torch.long)
    for i in range(rows):
      ids = []
      while len(ids) <= length:
        ids += self.tokenizer.encode(generate_text.make_document(self.rng, mix=self.mix)).ids
      result[i] = torch.tensor(ids[:length + 1])
    return result[:, :-1], result[:, 1:]


def row_length(step):
  """Most documents fit 256 or 512 tokens; the long rows teach the positions up to the context's end."""
  return 2048 if step % 16 == 15 else 512 if step % 2 else 256


def schedule(progress, step, fall_from):
  """Part of the full rate: a short rise, constant, then linear to zero from `fall_from` (a part of the run) on."""
  fall = 1.0 if progress <= fall_from else (1.0 - progress) / (1.0 - fall_from)
  return max(fall, 0.0) * min(1.0, (step + 1) / WARMUP_STEPS)


def token_weights(inputs, targets, user_weight, assistant):
  """Weight of every target: `user_weight` inside user and system turns. Their numbers are random; the answers are not."""
  weights = torch.ones(targets.shape)
  for row, ids in enumerate(targets.tolist()):
    weight, previous = 1.0, inputs[row, 0].item()
    for i, token in enumerate(ids):
      if previous == demo.START_OF_TURN:
        weight = 1.0 if token == assistant else user_weight
      weights[row, i] = weight
      if token == demo.END_OF_TURN:
        weight = 1.0
      previous = token
  return weights


def progress_of(args, step, start):
  """Part of the run that is done, as process 0 sees it: processes must agree on the last step."""
  value = torch.tensor([step / args.steps if args.steps else (time.time() - start) / 60 / args.minutes])
  if dist.is_initialized():
    dist.broadcast(value, 0)
  return value.item()


def average_gradients(parameters):
  """Means over all processes, in one message."""
  if not dist.is_initialized():
    return
  flat = torch.cat([p.grad.flatten() for p in parameters])
  dist.all_reduce(flat)
  flat /= dist.get_world_size()
  for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
    p.grad.copy_(part.view_as(p))


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", required=True)
  parser.add_argument("--minutes", type=float)
  parser.add_argument("--steps", type=int)
  parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
  parser.add_argument("--seed", type=int, default=11)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--save-every", type=float, default=8, help="minutes")
  parser.add_argument("--fall-from", type=float, default=0.5, help="part of the run after which the rates fall to zero")
  parser.add_argument("--rate", type=float, default=1.0, help="factor of both learning rates")
  parser.add_argument("--user-weight", type=float, default=0.2, help="weight of the loss inside user and system turns")
  parser.add_argument("--practice", action="store_true", help="more of the questions that are hard to learn")
  parser.add_argument("--resume", help="folder whose weights to start from")
  parser.add_argument("--compile", action="store_true")
  args = parser.parse_args()
  if (args.minutes is None) == (args.steps is None):
    parser.error("give either --minutes or --steps")
  torch.manual_seed(args.seed)   # the same initial weights in every process
  world = int(os.environ.get("WORLD_SIZE", "1"))
  if world > 1:
    dist.init_process_group("gloo")
  process = dist.get_rank() if world > 1 else 0
  torch.set_num_threads(args.threads)
  tokenizer = Tokenizer.from_file(os.path.join(args.out, "tokenizer.json"))
  assistant = tokenizer.token_to_id("assistant")
  mix = generate_text.PRACTICE_MIX if args.practice else generate_text.MIX
  rows = Rows(tokenizer, args.seed + 1000 * process, mix)
  model = demo.Qwen2()
  if args.resume:
    model.load_state_dict(load_file(os.path.join(args.resume, "model.safetensors")))
  matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
  others = [p for n, p in model.named_parameters() if p.ndim != 2 or ".layers." not in n]
  parameters = matrices + others
  muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
  forward = torch.compile(model, dynamic=False) if args.compile else model

  start = saved = time.time()
  step = tokens = 0
  while True:
    progress = progress_of(args, step, start)
    if progress >= 1:
      break
    length = row_length(step)
    inputs, targets = rows.batch(max(1, args.tokens // world // length), length)
    with torch.autocast("cpu", dtype=torch.bfloat16):
      logits = forward(inputs)
    weights = token_weights(inputs, targets, args.user_weight, assistant).flatten()
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    average_gradients(parameters)
    rate = args.rate * schedule(progress, step, args.fall_from)
    torch.nn.utils.clip_grad_norm_(others, 1.0)
    for group in adam.param_groups:
      group["lr"] = ADAM_RATE * rate
    adam.step()
    muon.step(MUON_RATE * rate)
    model.zero_grad(set_to_none=True)
    step += 1
    tokens += inputs.numel() * world
    if step % 10 == 0 and process == 0:
      print(f"step {step} progress {progress:.3f} loss {loss.item():.4f} rate {rate:.3f} "
            f"tokens/s {tokens / (time.time() - start):.0f} minutes {(time.time() - start) / 60:.1f}", flush=True)
    if process == 0 and time.time() - saved > 60 * args.save_every:
      demo.export(model, args.out)
      saved = time.time()
  if process == 0:
    demo.export(model, args.out)
    print(f"done: {step} steps, {tokens} tokens, {(time.time() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
  main()
