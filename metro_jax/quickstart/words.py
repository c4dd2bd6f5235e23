"""Word lists of the quickstart's prompted tasks, written for it; those named HELD_OUT are for evaluation only."""


def _list(text: str, separator: str = ",") -> tuple[str, ...]:
    """The words of a list written as one string."""
    return tuple(text.split(separator))


NAMES = _list(
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mary Nick Olga Paul Rosa Sam Tina Victor Wanda "
    "Adam Bella Carl Dora Eric Fiona George Helen Ivan",
    " ",
)
NAMES_HELD_OUT = _list("Julia Mark Nora Oscar Peter Sara Tom Vera", " ")

COLOURS = _list("red blue green yellow white black brown grey pink purple", " ")
PLACES = _list("kitchen garden garage office library station school market park museum cellar hotel", " ")
DAYS = _list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday", " ")
MONTHS = _list("January March April May July August October December", " ")
PEOPLE = _list("sister brother mother father wife husband daughter son neighbour colleague aunt uncle", " ")

# Sentiment.
PRODUCTS = _list(
    "lamp,kettle,toaster,blender,coffee maker,desk chair,sofa,mattress,pillow,blanket,carpet,mirror,"
    "wall clock,radio,camera,phone case,laptop bag,keyboard,printer,set of headphones,speaker,tent,"
    "sleeping bag,rucksack,bicycle,helmet,umbrella,raincoat,pair of boots,winter jacket,sun hat,wool sweater,"
    "silk scarf,watch,suitcase,garden hose,lawn mower,shovel,hammer,power drill,toolbox,ladder,paint brush,"
    "bread knife,cutting board,salad bowl,teapot,coffee mug,water bottle,lunch box,board game,jigsaw puzzle,"
    "toy train,doll house,story book,travel guide,guitar,violin,piano stool,yoga mat,football,tennis racket,"
    "pencil case,stapler,envelope set,calculator,globe,telescope,binoculars case,compass,torch,"
    "candle holder,flower vase,picture frame,curtain,bath towel,soap dish,toothbrush,shower cap,hair brush,perfume,"
    "necklace,bracelet,wallet,belt,necktie,pyjamas set,bathrobe,sandals box,slippers box,apron,oven mitt,rolling pin,"
    "corkscrew,thermometer,kitchen scale,spice rack,wine glass,beer mug,tea towel,bird cage,dog leash,cat basket,"
    "fish tank,plant pot,watering can,wheelbarrow,rake,doorbell,padlock,extension cable,light bulb,battery charger,"
    "memory card,router,tablet,monitor,microphone,tripod,drone,scooter,skateboard,surfboard,snow sledge,"
    "swim goggles box"
)
PRODUCTS_HELD_OUT = _list(
    "vacuum cleaner,bookshelf,electric razor,picnic basket,pair of gloves,chess set,microscope,hair dryer,"
    "fishing rod,rice cooker"
)

GOOD = _list(
    "great,excellent,wonderful,superb,fantastic,lovely,perfect,brilliant,amazing,beautiful,sturdy,reliable,"
    "delightful,splendid,handy,comfortable,impressive,outstanding,marvellous,flawless,charming,solid,good,"
    "pleasant,terrific,useful"
)
BAD = _list(
    "terrible,awful,horrible,dreadful,useless,flimsy,ugly,broken,disappointing,poor,faulty,annoying,worthless,"
    "defective,shoddy,clumsy,uncomfortable,unreliable,miserable,pathetic,lousy,cheap,bad,unpleasant,hopeless,"
    "rotten"
)
BEST = _list(
    "best,finest,nicest,greatest,loveliest,most useful,most reliable,most beautiful,most comfortable,cleverest"
)
WORST = _list(
    "worst,poorest,nastiest,ugliest,shabbiest,most useless,most annoying,most fragile,most disappointing,dullest"
)
LIKE = _list("love,adore,enjoy,treasure,like,cherish,admire")
DISLIKE = _list("hate,dislike,regret,despise,detest,loathe,resent")
GOOD_OUTCOMES = _list(
    "it works like a charm;I would order it again;it was money well spent;I am very pleased with it;"
    "it is worth every penny;five stars from me;I recommend it to all my friends;"
    "it does everything I hoped for;it still looks like new;I could not be happier;"
    "we use it every day with pleasure;it made my week;great value for the price;"
    "the quality is a nice surprise;thank you so much;it fits perfectly;"
    "never a problem with it;far better than my old one;not too much for what you get;honestly a joy to have at home",
    ";",
)
BAD_OUTCOMES = _list(
    "it broke after a week;I want my money back;it was a waste of money;I sent it straight back;"
    "it fell apart in my hands;one star from me;I warn all my friends against it;it does nothing it promised;"
    "it looked old on arrival;I could not be angrier;it went into the bin after a day;it ruined my week;"
    "far too much for the price;the quality is a sad joke;never again;it does not fit at all;"
    "never without a problem;far worse than my old one;so much for that promise;honestly a pain to have at home",
    ";",
)
NEUTRAL_REMARKS = _list(
    "it came on a {day};I ordered it in {month};it came in a {colour} box;I got it for my {person};"
    "my {person} saw it online;mine is {colour};it replaces an old one;the parcel came by post",
    ";",
)

# Inference: things with the kind of thing they are.
KINDS = {
    "flower": _list("rose tulip daisy lily", " "),
    "fruit": _list("pear peach plum lemon", " "),
    "tool": _list("hammer saw wrench chisel", " "),
    "vehicle": _list("car truck bus van", " "),
    "bird": _list("duck parrot goose swan", " "),
    "drink": _list("coffee juice tea lemonade", " "),
    "instrument": _list("guitar flute trumpet drum", " "),
    "garment": _list("coat shirt dress scarf", " "),
}
ACTIONS = {
    "bought": "buy",
    "found": "find",
    "lost": "lose",
    "sold": "sell",
    "chose": "choose",
    "borrowed": "borrow",
    "photographed": "photograph",
    "noticed": "notice",
    "described": "describe",
    "wanted": "want",
}
SIZES = _list("large small expensive famous heavy clean", " ")

# Topics.
TOPICS = {
    "sport": _list("goalkeeper,marathon,referee,stadium,penalty,tennis match,swimming race,coach,championship,team"),
    "music": _list("orchestra,melody,concert,singer,choir,violin solo,rhythm,composer,opera,drummer"),
    "food": _list("soup,recipe,roast chicken,salad,dessert,fresh bread,cheese,restaurant meal,spices,pancakes"),
    "weather": _list("thunderstorm,snowfall,heat wave,fog,rain shower,hurricane,cold front,sunshine,forecast,hail"),
    "money": _list("bank loan,interest rate,savings,tax,stock price,mortgage,pension,budget,invoice,salary"),
    "health": _list("doctor,vaccine,fever,hospital,headache,medicine,nurse,surgery,broken leg,cough"),
}

# Paraphrase: questions about doing something to a thing.
TASKS = _list("clean repair sell buy paint move store polish lend insure wrap ship find test build describe", " ")
BELONGINGS = _list(
    "sofa,bicycle,carpet,piano,lamp,tent,kettle,mirror,ladder,clock,guitar,suitcase,radio,camera,chair,table,printer,"
    "blanket,watch,toaster,violin,mattress,helmet,umbrella"
)

# Word sense: word -> two senses, each with its gloss and sentences.
Sense = tuple[str, tuple[str, ...]]
SENSES: dict[str, tuple[Sense, Sense]] = {
    "bank": (
        (
            "a place for money",
            (
                "{name} opened an account at the bank",
                "the bank gave {name} a loan",
                "{name} paid the cheque into the bank",
            ),
        ),
        (
            "the side of a river",
            (
                "{name} fished from the bank",
                "reeds grow along the bank where {name} swims",
                "{name} tied the boat to the bank",
            ),
        ),
    ),
    "bat": (
        (
            "an animal",
            (
                "a bat flew over {name} at dusk",
                "{name} saw a bat asleep in the cave",
                "the bat caught a moth above {name}",
            ),
        ),
        (
            "a club for a game",
            (
                "{name} swung the bat at the ball",
                "{name} bought a wooden bat for the match",
                "the bat cracked when {name} hit the ball",
            ),
        ),
    ),
    "bark": (
        (
            "a sound",
            (
                "the bark of a dog woke {name}",
                "{name} heard a loud bark behind the gate",
                "a puppy answered {name} with a bark",
            ),
        ),
        (
            "a cover of a tree",
            (
                "{name} peeled bark from the birch",
                "moss covered the bark of the oak {name} planted",
                "{name} carved a heart in the bark",
            ),
        ),
    ),
    "spring": (
        (
            "a season",
            (
                "{name} plants seeds every spring",
                "in spring {name} walks among the blossoms",
                "after winter {name} longs for spring",
            ),
        ),
        (
            "a coil of metal",
            (
                "{name} oiled the spring in the lock",
                "the spring of the mattress hurt {name}",
                "{name} bent the steel spring",
            ),
        ),
    ),
    "match": (
        (
            "a game",
            (
                "{name} won the match in the last minute",
                "the match ended before {name} scored",
                "{name} watched the match at the stadium",
            ),
        ),
        (
            "a stick that makes fire",
            (
                "{name} struck a match to light the candle",
                "the match burned the finger of {name}",
                "{name} lit the stove with a match",
            ),
        ),
    ),
    "letter": (
        (
            "a message on paper",
            (
                "{name} posted a letter to a friend",
                "a long letter came for {name}",
                "{name} sealed the letter with wax",
            ),
        ),
        (
            "a sign of the alphabet",
            (
                "{name} wrote the letter B on the board",
                "the word of {name} began with a capital letter",
                "{name} learned to read every letter from A to Z",
            ),
        ),
    ),
    "ring": (
        (
            "a piece of jewellery",
            ("{name} wore a gold ring", "a diamond shone in the ring of {name}", "{name} put the ring on her finger"),
        ),
        (
            "the sound of a bell",
            (
                "{name} heard the ring of the telephone",
                "the ring of the doorbell surprised {name}",
                "one ring of the alarm woke {name}",
            ),
        ),
    ),
    "nail": (
        (
            "a pin of metal",
            (
                "{name} hammered a nail into the wall",
                "the picture of {name} hung on a rusty nail",
                "{name} pulled a nail out of the plank",
            ),
        ),
        (
            "the end of a finger",
            (
                "{name} painted one nail pink",
                "{name} broke a nail on her thumb",
                "{name} bit the nail of her little finger",
            ),
        ),
    ),
    "crane": (
        (
            "a bird",
            (
                "a crane landed in the marsh near {name}",
                "{name} photographed a crane with its chicks",
                "the crane spread its wings before {name}",
            ),
        ),
        (
            "a machine",
            (
                "a crane lifted the beams for {name}",
                "{name} drove the crane at the building site",
                "the crane lowered the steel where {name} stood",
            ),
        ),
    ),
    "seal": (
        (
            "an animal",
            (
                "a seal dived under the boat of {name}",
                "{name} fed the seal some fish",
                "the seal slept on the ice near {name}",
            ),
        ),
        (
            "a stamp in wax",
            (
                "{name} broke the seal of the envelope",
                "the king gave {name} a scroll with his seal",
                "{name} pressed the seal into warm wax",
            ),
        ),
    ),
}

# Choice of ending: what happens -> what people do then; each ending fits its own situations only.
SCRIPTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("{name} was very thirsty", "{name} had a dry throat", "{name} had drunk nothing all day"),
        ("{name} drank a glass of water", "{name} poured some juice", "{name} filled a cup at the tap"),
    ),
    (
        ("{name} was tired", "{name} had worked all night", "{name} could hardly stay awake"),
        ("{name} went to bed", "{name} took a long nap", "{name} lay down and slept"),
    ),
    (
        ("{name} was hungry", "{name} had missed lunch", "the stomach of {name} was empty"),
        ("{name} cooked some rice", "{name} ate a sandwich", "{name} ordered a pizza"),
    ),
    (
        ("it began to rain on {name}", "dark clouds opened above {name}", "{name} was caught in a shower"),
        ("{name} opened an umbrella", "{name} put on a raincoat", "{name} ran for shelter"),
    ),
    (
        ("{name} felt cold", "snow fell on {name}", "the heating of {name} had failed"),
        ("{name} put on a warm coat", "{name} lit the fire", "{name} wrapped up in a blanket"),
    ),
    (
        ("the room of {name} was dark", "the sun had set and {name} wanted to read", "{name} could not see the stairs"),
        ("{name} switched on the lamp", "{name} lit a candle", "{name} looked for a torch"),
    ),
    (
        ("{name} cut a finger", "{name} fell and the knee bled", "a thorn scratched {name}"),
        ("{name} used a bandage", "{name} cleaned the wound", "{name} asked for a plaster"),
    ),
    (
        (
            "the plate of {name} was dirty",
            "{name} had a pile of cups after the party",
            "{name} burned the soup in the pot",
        ),
        ("{name} washed the dishes", "{name} loaded the dishwasher", "{name} scrubbed it in the sink"),
    ),
    (
        ("the key of {name} was lost", "{name} was locked out", "the door of {name} would not open"),
        ("{name} called a locksmith", "{name} climbed in by the window", "{name} fetched the spare key"),
    ),
    (
        ("the hair of {name} was too long", "{name} wanted a new hairstyle", "{name} could not see through the fringe"),
        ("{name} went to the barber", "{name} picked up the scissors", "{name} had a haircut"),
    ),
    (
        ("the exam of {name} was near", "{name} wanted good marks", "{name} did not know the lesson"),
        ("{name} studied hard", "{name} read the textbook", "{name} learned the notes by heart"),
    ),
    (
        ("the car of {name} had no fuel", "the tank of {name} was empty", "the fuel light of {name} came on"),
        ("{name} stopped at a petrol station", "{name} filled up the car", "{name} walked to the nearest pump"),
    ),
)
