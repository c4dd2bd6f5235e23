"""Prompt templates of the quickstart's tasks: what is asked, in which words, with which answers.

A template's text and its choices are format strings over the fields of a record; the record's label says which choice
is right. Held-out templates are never trained on, and every template of the held-out family is one.
"""

import dataclasses

# The question of METRO-T0's model card. Its template is held out: training asks about reviews in other words.
QUESTION = "Is this review positive or negative? Review: this is the best cast iron skillet you will ever buy"
QUESTION_REVIEW = QUESTION.partition("Review: ")[2]
ANSWER = "positive"


@dataclasses.dataclass(frozen=True)
class Template:
    """One way of asking: name, text and choices as format strings, and whether training may see it."""

    name: str
    text: str
    choices: tuple[str, ...]
    held_out: bool = False


def _sentiment() -> tuple[Template, ...]:
    polarity = ("positive", "negative")
    return (
        Template(
            "sentiment_of", "Review: {review}. What is the sentiment of the review, positive or negative?", polarity
        ),
        Template("either", "The following review is either negative or positive. Which is it? {review}", polarity),
        Template("tell_me", "Tell me if this customer review is positive or negative: {review}", polarity),
        Template("above", "{review}. Is the opinion above negative or positive?", polarity),
        Template("customer_wrote", "A customer wrote: {review}. Is the comment positive or negative?", polarity),
        Template("view", "Here is what someone says of a {product}. {review}. Negative or positive?", polarity),
        Template("tone", "What is the tone of this text? {review}. Choose positive or negative.", polarity),
        Template("which_one", "Positive or negative: which one is this review? {review}.", polarity),
        Template("verdict", "Review of a {product}: {review}. Verdict:", polarity),
        Template("happy", "Was the customer happy with it? Review: {review}. Yes or no?", ("yes", "no")),
        Template("recommend", "{review}. Would the writer recommend the {product}? Yes or no?", ("yes", "no")),
        Template("good_bad", "Review: {review}. Is that a good or a bad review?", ("good", "bad")),
        Template(
            "pleased", "Did the writer of this text like the {product}? {review}. Answer yes or no.", ("yes", "no")
        ),
        # Enough wordings, of both orders and with other answers, that a new one is not a new task.
        Template("judge", "Judge the opinion, positive or negative: {review}", polarity),
        Template("mood", "Does the writer feel positive or negative about it? {review}", polarity),
        Template("follows", "Is what follows a negative or a positive opinion? {review}", polarity),
        Template("keep", "{review}. Will the owner keep the {product}? Yes or no?", ("yes", "no")),
        Template("satisfied", "Is the buyer satisfied? {review}. Yes or no?", ("yes", "no")),
        Template("enjoy", "{review}. Does the writer enjoy the {product}? Yes or no?", ("yes", "no")),
        Template("praise", "Is it praise or blame? {review}", ("praise", "blame")),
        Template("stars", "{review}. Does the {product} get five stars or one?", ("five", "one")),
        Template("model_card", "Is this review positive or negative? Review: {review}", polarity, held_out=True),
        Template("sound", "Does the review sound negative or positive? {review}", polarity, held_out=True),
        Template(
            "would_like", "{review}. Did the customer like the {product}? Yes or no?", ("yes", "no"), held_out=True
        ),
    )


def _inference() -> tuple[Template, ...]:
    answers = ("yes", "no", "maybe")
    return (
        Template("follow", "{premise}. Does it follow that {hypothesis}? Yes, no or maybe?", answers),
        Template("suppose", "Suppose {premise}. Can we infer that {hypothesis}? Yes, no or maybe?", answers),
        Template("given", "Given that {premise}, is it true that {hypothesis}? Answer yes, no or maybe.", answers),
        Template(
            "premise",
            "Premise: {premise}. Hypothesis: {hypothesis}. Is the hypothesis true? Yes, no or maybe?",
            answers,
        ),
        Template("words", "{premise}. Question: {hypothesis}. True, false or unknown?", ("true", "false", "unknown")),
        Template(
            "justified", "{premise}. Are we right to say that {hypothesis}? Yes, no or maybe?", answers, held_out=True
        ),
        Template(
            "claim",
            "Text: {premise}. Claim: {hypothesis}. True, false or unknown?",
            ("true", "false", "unknown"),
            held_out=True,
        ),
    )


def _word_sense() -> tuple[Template, ...]:
    glosses, same = ("{gloss_a}", "{gloss_b}"), ("yes", "no")
    return (
        Template("which", "{first}. In this sentence, does {word} mean {gloss_a} or {gloss_b}?", glosses),
        Template("meaning", "What is the meaning of {word} in: {first}? Choose {gloss_a} or {gloss_b}.", glosses),
        Template("stands_for", "{gloss_a} or {gloss_b}: which one is {word} here? {first}.", glosses),
        Template("same", "{first}. {second}. Does {word} have the same meaning in both sentences? Yes or no?", same),
        Template("question", "Is {word} used in the same sense here? {first}. {second}. Yes or no?", same),
        Template("refers", "{first}. Here {word} is: {gloss_a} or {gloss_b}?", glosses, held_out=True),
        Template("alike", "{first}. {second}. Is the meaning of {word} the same? Yes or no?", same, held_out=True),
    )


def _ending() -> tuple[Template, ...]:
    endings = ("{ending_a}", "{ending_b}")
    return (
        Template("next", "{situation}. What happened next? {ending_a}, or {ending_b}?", endings),
        Template("choose", "{situation}. Choose the better ending: {ending_a}, or {ending_b}.", endings),
        Template("so", "{ending_a}, or {ending_b}? Which of them fits this beginning: {situation}.", endings),
        Template("story", "Story: {situation}. Options: {ending_a}, or {ending_b}. How does the story end?", endings),
        Template("likely", "{situation}. Which is more likely: {ending_a}, or {ending_b}?", endings, held_out=True),
        Template("finish", "Finish the story. {situation}. {ending_a}, or {ending_b}?", endings, held_out=True),
    )


def _question_answering() -> tuple[Template, ...]:
    options = ("{option_a}", "{option_b}")
    return (
        Template("plain", "{passage}. {question}? {option_a} or {option_b}?", options),
        Template("passage", "Passage: {passage}. Question: {question}? Choices: {option_a} or {option_b}.", options),
        Template("question_first", "{question}? Read and answer {option_a} or {option_b}: {passage}.", options),
        Template("according", "According to the text, {question}? {passage}. {option_a} or {option_b}?", options),
        Template("context", "Context: {passage}. {question}? {option_a} or {option_b}?", options, held_out=True),
        Template(
            "read",
            "Read the text: {passage}. Now tell me, {question}? {option_a} or {option_b}?",
            options,
            held_out=True,
        ),
    )


def _topic() -> tuple[Template, ...]:
    topics = ("{topic_a}", "{topic_b}", "{topic_c}")
    return (
        Template("about", "{text}. Is this about {topic_a}, {topic_b} or {topic_c}?", topics),
        Template("topic_of", "What is the topic of this text, {topic_a}, {topic_b} or {topic_c}? {text}.", topics),
        Template("label", "Text: {text}. Topics: {topic_a}, {topic_b}, {topic_c}. Which topic fits?", topics),
        Template(
            "section", "In which section of a newspaper is this: {topic_a}, {topic_b} or {topic_c}? {text}.", topics
        ),
        Template(
            "concerns", "{text}. What does the text concern: {topic_a}, {topic_b} or {topic_c}?", topics, held_out=True
        ),
        Template(
            "file_under", "File this note under {topic_a}, {topic_b} or {topic_c}: {text}.", topics, held_out=True
        ),
    )


def _paraphrase() -> tuple[Template, ...]:
    same = ("yes", "no")
    return (
        Template("same_thing", "{first}? {second}? Do both questions ask the same thing? Yes or no?", same),
        Template("mean", "Question: {first}? Does it mean the same as this: {second}? Yes or no?", same),
        Template("duplicate", "Are these two the same question? {first}? {second}? Yes or no?", same),
        Template("already", "Someone asked: {first}? Is that what I ask: {second}? Answer yes or no.", same),
        Template("equal", "{first}? And {second}? Are the two questions equal? Yes or no?", same, held_out=True),
        Template("alike", "Do these mean the same? {first}? {second}? Answer yes or no.", same, held_out=True),
    )


def _completion() -> tuple[Template, ...]:
    options = ("{option_a}", "{option_b}")
    return (
        Template("blank", "{passage}. Fill in the blank: {gap}. {option_a} or {option_b}?", options, held_out=True),
        Template("gap", "{passage}. What is missing here: {gap}? {option_a} or {option_b}?", options, held_out=True),
        Template("complete", "Text: {passage}. Complete it: {gap}. {option_a} or {option_b}?", options, held_out=True),
        Template(
            "which_word", "{passage}. {gap}. Which word is left out, {option_a} or {option_b}?", options, held_out=True
        ),
    )


HELD_OUT_FAMILY = "completion"
TEMPLATES: dict[str, tuple[Template, ...]] = {
    "sentiment": _sentiment(),
    "inference": _inference(),
    "word_sense": _word_sense(),
    "ending": _ending(),
    "question_answering": _question_answering(),
    "topic": _topic(),
    "paraphrase": _paraphrase(),
    "completion": _completion(),
}
