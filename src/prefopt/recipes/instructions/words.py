"""What the instruction prompts are made of: subjects, words to use or to avoid, endings, and how each constraint is worded.

Wordings stand in three parts: of the training prompts, of the tuning prompts, and of the test prompts. No wording is in two.
"""

from __future__ import annotations

SUBJECTS = (
    "volcanoes", "the moon", "bees", "bicycles", "bread", "rainbows", "penguins", "the piano", "deserts", "chess",
    "coffee", "whales", "bridges", "clouds", "the sun", "football", "libraries", "snow", "elephants", "the heart",
    "rice", "trains", "honey", "spiders", "castles", "the internet", "dolphins", "tea", "earthquakes", "the guitar",
    "butterflies", "glass", "rivers", "dreams", "the alphabet", "salt", "owls", "batteries", "mountains", "yoga",
    "chocolate", "lightning", "wolves", "paper", "the ocean", "tennis", "museums", "ice", "horses", "the brain",
    "potatoes", "airplanes", "wine", "ants", "pyramids", "robots", "sharks", "milk", "tornadoes", "the violin",
    "roses", "steel", "lakes", "sleep", "numbers", "sugar", "eagles", "magnets", "forests", "dancing",
    "cheese", "thunder", "foxes", "plastic", "the beach", "swimming", "theatres", "fog", "cows", "the lungs",
    "tomatoes", "ships", "olive oil", "worms", "lighthouses", "computers", "octopuses", "eggs", "floods", "drums",
    "sunflowers", "gold", "waterfalls", "memory", "maps", "pepper", "parrots", "telescopes", "islands", "running",
    "apples", "wind", "bears", "wool", "the desert sky", "basketball", "markets", "frost", "sheep", "the eyes",
    "carrots", "submarines", "soup", "snails", "windmills", "telephones", "turtles", "butter", "droughts", "the flute",
    "tulips", "silver", "caves", "laughter", "clocks", "cinnamon", "swans", "microscopes", "valleys", "painting",
    "bananas", "rain", "tigers", "cotton", "harbours", "cricket", "schools", "hail", "goats", "the skin",
    "onions", "rockets", "pizza", "beetles", "fountains", "cameras", "crabs", "yogurt", "avalanches", "the trumpet",
    "orchids", "copper", "glaciers", "friendship", "calendars", "ginger", "ducks", "compasses", "meadows", "cooking",
    "oranges", "sunsets", "lions", "leather", "airports", "golf", "hospitals", "dew", "pigs", "the stomach",
    "mushrooms", "tractors", "pasta", "ladybirds", "towers", "printers", "jellyfish", "ice cream", "hurricanes", "the harp",
    "daisies", "iron", "springs", "happiness", "stamps", "vanilla", "pigeons", "thermometers", "jungles", "gardening",
    "lemons", "the stars", "zebras", "silk", "subways", "skiing", "post offices", "seasons", "camels", "teeth",
    "pumpkins", "helicopters", "salad", "fireflies", "gates", "keyboards", "lobsters", "jam", "tides", "singing",
)  # fmt: skip
USED = (
    "water", "people", "world", "energy", "history", "small", "family", "morning", "science", "color",
    "strong", "nature", "country", "food", "night", "money", "music", "summer", "health", "children",
)  # fmt: skip
AVOIDED = (
    ("important",), ("the",), ("is",), ("and",), ("are",), ("of",), ("very",), ("many",), ("world",), ("can",), ("they", "it"),
)  # fmt: skip
ENDINGS = (
    "That is all.", "Thank you.", "Now you know.", "The end.", "Is there more?", "Have a nice day.", "Hope this helps.",
    "Ask me again.", "And that is true.",
)  # fmt: skip

# frames of the request; {x} is the subject
FRAMES = {
    "train": (
        "Tell me about {x}.", "Describe {x}.", "What do you know about {x}?", "Write something about {x}.",
        "Give me a fact about {x}.",
    ),
    "tuning": ("Say something about {x}.", "What should I know about {x}?"),
    "test": ("I would like to hear about {x}.", "Explain {x} to me.", "Introduce the topic of {x}."),
}  # fmt: skip

# kind -> part -> wordings; the names in braces are the constraint's own arguments, as text
WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "short": {
        "train": ("Use fewer than {n} words.", "Answer in less than {n} words.", "The answer must have fewer than {n} words."),
        "tuning": ("Write less than {n} words.",),
        "test": ("Stay below {n} words.", "Keep it under {n} words."),
    },
    "long": {
        "train": ("Use at least {n} words.", "Write {n} words or more."),
        "tuning": ("The answer must have at least {n} words.",),
        "test": ("Do not write less than {n} words.", "Give me no fewer than {n} words."),
    },
    "one_sentence": {
        "train": ("Answer in one sentence.", "Use a single sentence.", "Write exactly one sentence."),
        "tuning": ("One sentence only.",),
        "test": ("Limit yourself to one sentence.", "Say it in a single sentence."),
    },
    "sentences": {
        "train": ("Use at least {n} sentences.", "Write {n} or more sentences."),
        "tuning": ("The answer must have at least {n} sentences.",),
        "test": ("Give me no fewer than {n} sentences.", "Do not stop before {n} sentences."),
    },
    "use": {
        "train": ('Use the word "{word}".', 'The word "{word}" must appear in your answer.', 'Include the word "{word}".'),
        "tuning": ('Mention the word "{word}".',),
        "test": ('Make sure that "{word}" is one of your words.', 'Your answer has to contain the word "{word}".'),
    },
    "use_two": {
        "train": ('Use the words "{word}" and "{other}".', 'Include both "{word}" and "{other}".'),
        "tuning": ('Mention the words "{word}" and "{other}".',),
        "test": ('Both "{word}" and "{other}" have to be in the answer.',),
    },
    "avoid": {
        "train": ("Do not use {words}.", "Never write {words}.", "Answer without {words}."),
        "tuning": ("Avoid {words}.",),
        "test": ("{Words} must not appear in the answer.", "Leave out {words}."),
    },
    "repeat": {
        "train": ('Use the word "{word}" at least {n} times.', 'The word "{word}" must appear {n} times or more.'),
        "tuning": ('Mention the word "{word}" at least {n} times.',),
        "test": ('Make "{word}" occur no fewer than {n} times.',),
    },
    "no_comma": {
        "train": ("Do not use commas.", "Use no commas at all.", "Write without any comma."),
        "tuning": ("Avoid commas.",),
        "test": ("There must not be a comma in your answer.", "Leave out all commas."),
    },
    "end": {
        "train": ('End with the words "{phrase}"', 'The last words must be "{phrase}"', 'Finish your answer with "{phrase}"'),
        "tuning": ('Close with "{phrase}"',),
        "test": ('Let "{phrase}" be the end of your answer.', 'Your answer has to stop with "{phrase}"'),
    },
    "quote": {
        "train": ("Put the whole answer in double quotation marks.", "Begin and end the answer with double quotation marks."),
        "tuning": ("Wrap the answer in double quotation marks.",),
        "test": ("Your entire answer has to stand between double quotation marks.",),
    },
    "title": {
        "train": ("Give the answer a title in double angle brackets, like <<title>>.", "Begin with a title such as <<my title>>."),
        "tuning": ("Add a title, written as <<title>>.",),
        "test": ("Put a title above it in double angular brackets, i.e. <<the title>>.",),
    },
    "bullets": {
        "train": ('Use exactly {n} bullet points, each on a line that begins with "* ".', 'Answer with exactly {n} bullets like "* this one".'),
        "tuning": ('Write exactly {n} bullet points that begin with "* ".',),
        "test": ('Your answer has to be a list of exactly {n} bullets, each starting with "* ".',),
    },
    "postscript": {
        "train": ("Add a postscript that starts with P.S.", "At the end, write a postscript beginning with P.S."),
        "tuning": ("Close with a postscript (P.S.).",),
        "test": ("After the answer there has to be a postscript starting with P.S.",),
    },
    "highlight": {
        "train": ("Highlight at least {n} parts with asterisks, like *this part*.", "Put at least {n} words between asterisks, like *word*."),
        "tuning": ("Mark at least {n} parts by asterisks, like *this*.",),
        "test": ("No fewer than {n} parts of the answer have to be highlighted with asterisks, i.e. *part*.",),
    },
}  # fmt: skip
