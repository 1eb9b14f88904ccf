"""DPO on pairs in memory, as a user of TRL writes it."""

from itertools import islice
from random import Random

from datasets import Dataset

import prefopt
from prefopt.recipes.quickstart.task import chains
from prefopt.recipes.quickstart.writers import careful, slipper

random = Random(0)
pairs = Dataset.from_list(
    [
        {
            "prompt": [{"role": "user", "content": chain.expression}],
            "chosen": [{"role": "assistant", "content": careful(chain, random)}],
            "rejected": [{"role": "assistant", "content": slipper(chain, random)}],
        }
        for chain in islice(chains("train", seed=0), 120)
    ]
)

trainer = prefopt.Trainer(
    model="builtin:quickstart/base",
    train_dataset=pairs.select(range(100)),
    eval_dataset=pairs.select(range(100, 120)),
    loss={"name": "dpo", "beta": 0.1},
    args={"max_steps": 10, "pairs_per_step": 8, "learning_rate": 1e-4, "max_length": 96},
)
trainer.train()
print(trainer.evaluate())
trainer.save_model("dpo-model")
