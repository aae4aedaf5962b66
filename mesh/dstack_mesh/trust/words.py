"""Words that two people compare: short, common and hard to mishear for one another."""

_TEXT = """
acid acorn actor alarm album alley amber angle ankle apple apron arrow atlas attic autumn avenue
bacon badge baker ballet bamboo banjo barrel basket beacon beaver bench berry bicycle biscuit bishop
blanket blossom bonfire bottle boulder bracelet branch bridge bronze bucket buffalo button cabin
cactus camel candle canoe canyon carbon carpet castle cattle cavern cedar cello chalk cherry chimney
cinema circus citrus clover cobalt cobra coconut coffee comet compass copper coral cotton cowboy
cradle crater crayon cricket crystal cuckoo curtain cymbal daisy dancer desert diamond dinner
dolphin donkey dragon drawer drummer eagle easel echo elbow elephant ember emerald engine envelope
falcon farmer feather fiddle finger flannel flute forest fossil fountain freckle galaxy garden
garlic geyser giraffe glacier glove goblet granite grape gravel guitar hammer harbor harvest hazel
helmet heron hollow honey hornet island ivory jacket jaguar jasmine jelly jigsaw jungle kettle
kingdom kitten ladder lagoon lantern laurel lemon lettuce library lizard lobster lumber magnet
mango maple marble market meadow melon mercury mirror monkey mosaic mountain muffin museum mustard
napkin nectar needle nickel nutmeg oasis ocean octopus olive onion opera orange orchid organ
otter oxygen oyster paddle palace panda paper parrot pasta peanut pebble pelican pencil pepper
piano pickle pigeon pillow pilot planet plaza pocket poem polar pollen pony poplar potato prairie
puppet puzzle pyramid quarry quartz rabbit radio raven ribbon river robin rocket saddle saffron
salmon sandal satin scarf school shadow shovel silver sparrow spinach sponge squirrel stadium
summit sunset swallow tablet teapot temple thunder ticket tiger timber tomato trumpet tulip tunnel
turtle velvet violin walnut
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
"""256 words: one for each value of a byte."""


def words_of(four_bytes: bytes) -> tuple[str, str, str, str]:
    """Four words that stand for four bytes."""
    first, second, third, fourth = four_bytes
    return WORDS[first], WORDS[second], WORDS[third], WORDS[fourth]
