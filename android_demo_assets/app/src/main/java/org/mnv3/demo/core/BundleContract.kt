package org.mnv3.demo.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive

/** How a picture becomes the model's input, from the `preprocessing` part of preprocessing.json. */
data class Preprocessing(
    val height: Int,
    val width: Int,
    val resize: String,
    val cropFraction: Double,
    val interpolation: String,
    val background: IntArray,
)

/** What one end of the model takes or gives: 1 value for each element, real = (value - zeroPoint) * scale where scale is not 0. */
data class TensorRule(val dtype: String, val shape: IntArray, val scale: Double, val zeroPoint: Int) {
    val elements: Int get() = shape.fold(1) { product, size -> product * size }
    val bytes: Int get() = elements * if (dtype == "float32") 4 else 1
}

/** The contract of a bundle. The app has no size, mean or label of its own: all of it is here and in labels.txt. */
data class BundleContract(
    val preprocessing: Preprocessing,
    val input: TensorRule,
    val output: TensorRule,
    val isProbability: Boolean,
) {
    companion object {
        const val FORMAT = "mnv3-bundle/1"

        /** Reads preprocessing.json; throws IllegalArgumentException where it is not one of a bundle that this code knows. */
        fun parse(text: String): BundleContract {
            val root = Json.parseToJsonElement(text).jsonObject
            val format = root["format"]?.jsonPrimitive?.content
            require(format == FORMAT) { "preprocessing.json has the format $format, and $FORMAT is expected" }
            val rule = root.getValue("preprocessing").jsonObject
            val version = rule.getValue("version").jsonPrimitive.int
            require(version == 1) { "preprocessing rules of version $version are not known" }
            val output = root.getValue("output").jsonObject
            return BundleContract(
                Preprocessing(
                    height = rule.getValue("height").jsonPrimitive.int,
                    width = rule.getValue("width").jsonPrimitive.int,
                    resize = rule.getValue("resize").jsonPrimitive.content,
                    cropFraction = rule.getValue("crop_fraction").jsonPrimitive.double,
                    interpolation = rule.getValue("interpolation").jsonPrimitive.content,
                    background = rule.getValue("background").jsonArray.map { it.jsonPrimitive.int }.toIntArray(),
                ),
                tensor(root.getValue("input").jsonObject),
                tensor(output),
                output.getValue("is_probability").jsonPrimitive.boolean,
            )
        }

        private fun tensor(json: JsonObject) = TensorRule(
            dtype = json.getValue("dtype").jsonPrimitive.content,
            shape = json.getValue("shape").jsonArray.map { it.jsonPrimitive.int }.toIntArray(),
            scale = json.getValue("scale").jsonPrimitive.double,
            zeroPoint = json.getValue("zero_point").jsonPrimitive.int,
        )

        /** The lines of labels.txt; throws where they are not as many as the outputs. */
        fun labels(text: String, contract: BundleContract): List<String> {
            val names = text.removePrefix("\uFEFF").lines().map { it.trim() }.dropLastWhile { it.isEmpty() }
            val outputs = contract.output.elements
            require(names.size == outputs) { "labels.txt has ${names.size} lines, and the model $outputs outputs" }
            return names
        }
    }
}

/** A picture with its exact input and output, from goldens.json. */
data class Golden(val picture: String, val input: String, val output: String, val index: Int, val label: String, val score: Double) {
    companion object {
        fun parse(text: String): List<Golden> =
            Json.parseToJsonElement(text).jsonObject.getValue("goldens").jsonArray.map { element ->
                val json = element.jsonObject
                Golden(
                    picture = json.getValue("picture").jsonPrimitive.content,
                    input = json.getValue("input").jsonPrimitive.content,
                    output = json.getValue("output").jsonPrimitive.content,
                    index = json.getValue("index").jsonPrimitive.int,
                    label = json.getValue("label").jsonPrimitive.content,
                    score = json.getValue("score").jsonPrimitive.double,
                )
            }
    }
}
